"""torchrun: a payload of PyTorch as ranks, by one agent on each node."""

from __future__ import annotations

from typing import Annotated, Any

from dagster import EnvVar
from pydantic import AfterValidator, Field

from dagster_slurm.launchers import LaunchPlan, Payload, Place, Requirements, ranks_plan
from dagster_slurm.resources.field_types import NotNegative, Positive
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.resources.mpi_launcher import UNHEARD
from dagster_slurm.slurm.request import JobRequest


def _processes(value: Any) -> Any:
    # A variable's value is checked when the launcher is made anew with it.
    if isinstance(value, EnvVar | type(EnvVar.int(""))) or value == "auto" or str(value).isdecimal():
        return value
    raise ValueError('it is a number of ranks, or "auto"')


Processes = Annotated[Any, AfterValidator(_processes)]
"""A number or a word, which Dagster's configuration has no type for."""


class TorchrunLauncher(ComputeLauncher):
    """Runs the payload as ranks of torchrun (`torch.distributed.run`) over all nodes; in mode `local` on this machine.

    Fields are called as torchrun's options. The agents meet on the first node, at its address and a port that is free.
    """

    nproc_per_node: Processes = Field(
        default="auto", description='Ranks on each node; "auto": one for each of its GPUs, or else of the job\'s CPUs.'
    )
    max_restarts: NotNegative = Field(
        default=0, description="How often all ranks are started anew when one has failed."
    )
    rdzv_backend: str = Field(default="c10d", description="How the agents meet.")
    join_timeout: Positive = Field(default=120, description="Seconds in which all agents have to have met.")
    end_timeout: Positive = Field(
        default=30,
        description="Seconds that agents have to end when one of them has; without it they may wait for ever.",
    )
    options: list[str] = Field(default=[], description="Further options of torchrun, such as `--monitor-interval=1`.")

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        values = {
            "torchrun_processes": str(self.nproc_per_node),
            "torchrun_restarts": str(self.max_restarts),
            "torchrun_backend": self.rdzv_backend,
            "torchrun_timeout": str(self.join_timeout),
            "torchrun_join": str(self.end_timeout),
            "torchrun_options": self.options,
            "python": (*place.activation.wrapper, place.activation.python),
        }
        return ranks_plan(payload, place, "torchrun.sh", values, unheard=UNHEARD, helpers=("torchrun_facts.py",))

    def requirements(self, request: JobRequest | None) -> Requirements:
        if request is None:
            return Requirements(packages=("torch",))
        tasks = str(request.options.get("ntasks-per-node", "1"))
        refusals = () if tasks == "1" else (f"it starts one agent on a node, and ntasks_per_node is {tasks}",)
        return Requirements({"ntasks_per_node": 1}, refusals, packages=("torch",))
