"""MPI: a payload as many ranks, by srun or mpirun."""

from __future__ import annotations

import os
from typing import Annotated

from dagster_pipes import PipesDefaultMessageWriter, encode_param
from pydantic import Field

from dagster_slurm.launchers import LaunchPlan, Payload, Place, Requirements, ranks_plan
from dagster_slurm.resources.field_types import Positive, choice_of
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.slurm.request import JobRequest

UNHEARD = encode_param({PipesDefaultMessageWriter.FILE_PATH_KEY: os.devnull})
"""Where the messages of all ranks but the first go: one rank reports, and every rank has the context."""


class MPILauncher(ComputeLauncher):
    """Runs the payload as ranks of one MPI world over all nodes; in mode `local`, with `mpirun` on this machine.

    Before the payload, a world is made and its ranks are counted: a way of starting that does not fit the library of
    MPI gives as many worlds of one rank, and exit code 0. A rank that fails ends the others.
    """

    mpi: Annotated[str, choice_of("auto", "pmix", "pmi2", "none", "mpirun")] = Field(
        default="auto",
        description="`mpirun`, or else `srun --mpi=` with that plugin; `auto` takes the first that brings up a world "
        "of all ranks. In mode `local` always `mpirun`.",
    )
    tasks_per_node: Positive | None = Field(
        default=None,
        description="Ranks on each node, each with the job's `cpus`; by default what the job's own options say, or 1.",
    )
    np: Positive | None = Field(default=None, description="Ranks in all, if not each node is to have as many.")
    startup_timeout: Positive = Field(default=60, description="Seconds in which a world has to come up.")

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        python = (*place.activation.wrapper, place.activation.python)
        values = {
            "mpi": self.mpi,
            "mpi_ranks": "" if self.np is None else str(self.np),
            "mpi_tasks": "" if self.tasks_per_node is None else str(self.tasks_per_node),
            "mpi_timeout": str(self.startup_timeout),
            "python": python,
        }
        helpers = ("mpi_world.py", "mpi_run.py")
        return ranks_plan(payload, place, "mpi.sh", values, unheard=UNHEARD, helpers=helpers, runner="mpi_run.py")

    def requirements(self, request: JobRequest | None) -> Requirements:
        if request is None:
            return Requirements(packages=("mpi4py",))
        asked = self._tasks(request.nodes)
        said = str(request.options.get("ntasks-per-node", asked or ""))
        refusals = []
        if asked and said.isdecimal() and int(said) < asked:
            refusals.append(f"it starts {asked} ranks on a node, and ntasks_per_node is {said}")
        if self.np and self.tasks_per_node and self.np > request.nodes * self.tasks_per_node:
            most = request.nodes * self.tasks_per_node
            refusals.append(f"np is {self.np}, and {request.nodes} nodes with {self.tasks_per_node} tasks have {most}")
        options = {"ntasks_per_node": asked} if asked else {}
        return Requirements(options, tuple(refusals), packages=("mpi4py",))

    def _tasks(self, nodes: int) -> int | None:
        if self.tasks_per_node is not None or self.np is None:
            return self.tasks_per_node
        return -(-self.np // nodes)
