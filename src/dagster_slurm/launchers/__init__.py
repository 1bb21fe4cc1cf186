"""How a payload is started: pure plans, and the batch script made of them."""

from dagster_slurm.launchers.payload import Payload, as_payload, payload_from_path, work_files
from dagster_slurm.launchers.plan import (
    LaunchPlan,
    direct_plan,
    launch_function,
    launch_function_of_tasks,
    payload_command,
)
from dagster_slurm.launchers.scratch import Scratch

__all__ = [
    "LaunchPlan",
    "Payload",
    "Scratch",
    "as_payload",
    "direct_plan",
    "launch_function",
    "launch_function_of_tasks",
    "payload_command",
    "payload_from_path",
    "work_files",
]
