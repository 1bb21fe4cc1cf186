"""A step's calls to its cluster: repeated while that is away, or bounded in time while the run is terminated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.job.persistence import Persistence
from dagster_slurm.pipes.interruptions import Interruptions
from dagster_slurm.pipes.step import Step
from dagster_slurm.run_directory import RunDirectory

T = TypeVar("T")

CANCEL_SECONDS = 60.0
"""How long Slurm is waited for to confirm that jobs are cancelled; longer than KillWait, 30 s (slurm.conf(5))."""


class ClusterCalls:
    """The calls of one step.

    Args:
        step: The step.
        cluster: The cluster.
        interruptions: What may end a call before it has answered.
    """

    def __init__(self, step: Step, cluster: SlurmCluster, interruptions: Interruptions) -> None:
        self._step = step
        self._cluster = cluster
        self._interruptions = interruptions
        self._persistence = Persistence(
            tell=lambda text, level: step.log.log(level, text),
            reached=lambda: cluster.was_reached,
            sleep=interruptions.pause,
        )

    def persist(self, call: Callable[[], T]) -> T:
        """Make a call that may be made again, until it gives an answer.

        Raises:
            DagsterSlurmError: One that waiting does not mend.
            TerminationRequestedError: A user has terminated the run meanwhile.
            DagsterExecutionInterruptedError: The monitoring is to end.
        """
        return self._persistence(lambda: self._interruptions.beside(call))

    def bounded(self, call: Callable[[], T], what: str) -> T | None:
        """Make a call of a cancellation: a while, and no longer. None without an answer."""
        try:
            return self._interruptions.beside(call, timeout_seconds=CANCEL_SECONDS / 2)
        except (DagsterSlurmError, TimeoutError) as error:
            self._step.log.error(f"Cancelling: {what} on {self._cluster.host} has not succeeded: {error}")
            return None

    def withdraw(self, directories: Iterable[RunDirectory]) -> tuple[str, ...]:
        """Take back every try to submit, and cancel the jobs there may be. Those whose ids are known are returned."""
        claims = Claims(self._cluster)
        job_ids: list[str] = []
        names: list[str] = []
        for directory in directories:
            withdrawn = self.bounded(partial(claims.withdraw, directory), "looking for the job")
            if withdrawn is not None:
                job_ids += withdrawn.job_ids
                names += withdrawn.job_names
        if job_ids:
            self.bounded(lambda: self._cluster.cancel(job_ids), f"scancel {' '.join(job_ids)}")
        if names:
            self.bounded(lambda: self._cluster.cancel_by_name(names), "scancel --name")
        return tuple(dict.fromkeys(job_ids))
