"""How a payload is started: pure plans, and the batch script made of them."""

from dagster_slurm.launchers.hooks import Hook, Scratch
from dagster_slurm.launchers.payload import Payload, as_payload, payload_from_path, work_files
from dagster_slurm.launchers.plan import (
    LaunchPlan,
    Place,
    Planner,
    Requirements,
    direct_plan,
    launch_in_job,
    launch_script,
    nodes_hook,
    payload_command,
    ranks_plan,
    script_here,
)

__all__ = [
    "Hook",
    "LaunchPlan",
    "Payload",
    "Place",
    "Planner",
    "Requirements",
    "Scratch",
    "as_payload",
    "direct_plan",
    "launch_in_job",
    "launch_script",
    "nodes_hook",
    "payload_command",
    "payload_from_path",
    "ranks_plan",
    "script_here",
    "work_files",
]
