"""A step's calls to its cluster: repeated while that is away, or bounded in time while the run is terminated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.job.handle import JobHandle
from dagster_slurm.job.persistence import Persistence
from dagster_slurm.pipes.interruptions import Interruptions
from dagster_slurm.pipes.step import Step
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.output import QueueEntry

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
        jobs: list[JobHandle] = []
        names: list[str] = []
        for directory in directories:
            withdrawn = self.bounded(partial(claims.withdraw, directory), "looking for the job")
            if withdrawn is not None:
                jobs += [JobHandle(directory, job_id, number) for job_id, number in withdrawn.jobs.items()]
                names += withdrawn.job_names
        jobs = self._cancel(jobs) if jobs else []
        if names:
            self.bounded(lambda: self._cluster.cancel_by_name(names), "scancel --name")
        return tuple(dict.fromkeys(job.job_id for job in jobs))

    def _cancel(self, jobs: Sequence[JobHandle]) -> list[JobHandle]:
        """Cancel jobs, but for those under whose number Slurm has another's by now; the others are returned."""
        entries = self.bounded(lambda: self._cluster.queue([job.job_id for job in jobs]), "squeue")
        if entries is None:
            # A name tells whose a job is; it is all there is where a site has changed the names.
            by_name = [job.directory.job_name(job.generation) for job in jobs]
            self.bounded(lambda: self._cluster.cancel_by_name(by_name), "scancel --name")
            return list(jobs)
        strangers = {job.job_id for job in jobs if job.job_id in entries and not _is_of(entries[job.job_id], job)}
        for job_id in sorted(strangers):
            found = entries[job_id]
            self._step.log.error(
                f"Slurm job {job_id} on {self._cluster.host} is not cancelled: it has the name {found.name!r} in "
                f"{found.work_directory!r}, and is not this piece of work"
            )
        mine = [job for job in jobs if job.job_id not in strangers]
        if mine:
            job_ids = [job.job_id for job in mine]
            self.bounded(lambda: self._cluster.cancel(job_ids), f"scancel {' '.join(job_ids)}")
        return mine


def _is_of(entry: QueueEntry, job: JobHandle) -> bool:
    return job.directory.is_of(entry, generation=job.generation)
