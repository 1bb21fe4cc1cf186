"""The payload as a process of this machine: no Slurm, no SSH, the same layout and the same messages."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from dagster import PipesClient

from dagster_slurm.clients.results import Failures, run_each, run_one
from dagster_slurm.launchers import Payload
from dagster_slurm.launchers.payload import PathLike
from dagster_slurm.pipes.dagster_private import StepContext
from dagster_slurm.pipes.dry_run import refuse_in_dry_run
from dagster_slurm.pipes.launch_key import piece_of_work
from dagster_slurm.pipes.partition_results import (
    SlurmCompletedInvocation,
    SlurmPartitionsInvocation,
    partitions_of,
    recorded,
)
from dagster_slurm.pipes.step import Step
from dagster_slurm.work.here import LocalCarriers, Uninterrupted
from dagster_slurm.work.loop import Loop, Report
from dagster_slurm.work.spec import PayloadOptions, Tasks, WorkSpec, takes

if TYPE_CHECKING:
    # Part of `typing` from Python 3.11 on.
    from typing_extensions import Unpack


class LocalPipesClient(PipesClient):
    """Runs a payload on this machine, in a fresh directory that holds it and its extra files.

    Its output is in the step's compute logs while it runs, as it is on a cluster. It ends with Dagster's process.

    Args:
        python: The interpreter for Python payloads; by default the one that runs Dagster.
        keep_directories: Leave the directories for inspection.
    """

    def __init__(self, *, python: str | None = None, keep_directories: bool = False) -> None:
        self._python = python or sys.executable
        self._keep = keep_directories

    @takes(PayloadOptions)
    def run(  # type: ignore[override]
        self, *, context: StepContext, payload: Payload | PathLike, **options: Unpack[PayloadOptions]
    ) -> SlurmCompletedInvocation:
        """Run the payload and wait for its end.

        Args:
            context: The context of the asset, asset check or op.
            payload: The payload, or what `payload_from_path` makes one of.
            options: What else there is to say: see `PayloadOptions`.

        Raises:
            Failure: It ended with another exit code than 0; the cause is a `PayloadFailedError`. Or it has not left one
                of its outputs; the cause is an `OutputNotFoundError`.
        """
        refuse_in_dry_run("LocalPipesClient.run")
        return self.do(Step.of(context), WorkSpec.of(payload, **options))

    def do(self, step: Step, spec: WorkSpec) -> SlurmCompletedInvocation:
        """The same, for what is merged already."""
        call = piece_of_work(step, spec.name, "retry").key.call
        return run_one(step, partial(self._follow, step, spec, call), lambda end: {})

    @takes(PayloadOptions)
    def run_partitions(
        self, *, context: StepContext, payload: Payload | PathLike, **options: Unpack[PayloadOptions]
    ) -> SlurmPartitionsInvocation:
        """Run the payload for each partition of the run, one after the other; each is on record when it ends.

        Args:
            context: The context of the asset.
            payload: The payload, or what `payload_from_path` makes one of.
            options: What else there is to say: see `PayloadOptions`.

        Raises:
            InvalidRequestError: The run has no partitions, or something else was asked for that cannot be had.
            Failure: Partitions have failed; the others are materialised.
        """
        refuse_in_dry_run("LocalPipesClient.run_partitions")
        step = Step.of(context)
        return self.do_partitions(step, WorkSpec.of(payload, tasks=Tasks(len(partitions_of(step))), **options))

    def do_partitions(self, step: Step, spec: WorkSpec) -> SlurmPartitionsInvocation:
        """The same, for what is merged already."""
        key = piece_of_work(step, spec.name, "retry").key
        done = recorded(step, key.origin_run_id, spec.name)
        return run_each(step, spec.name, done, partial(self._follow, step, spec, key.call), lambda end: {})

    def _follow(self, step: Step, spec: WorkSpec, call: str, units: Sequence[str], succeeded: Report) -> Failures:
        carriers = LocalCarriers(step, spec, call, python=self._python, keeps=self._keep)
        try:
            return Loop(step, spec, units, carriers, Uninterrupted(), succeeded).to_the_end()
        finally:
            carriers.remove()
