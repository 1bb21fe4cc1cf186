"""Takes back what was submitted for a piece of work: by a termination, or later by who finishes one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.description import EndMark, OverMark
from dagster_slurm.cluster.look import look
from dagster_slurm.cluster.records import AttemptRecord
from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.run_directory import JobHandle, RunDirectory
from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.slurm.output import QueueEntry

T = TypeVar("T")

Make = Callable[[Callable[[], T]], T]
"""Makes a call to the cluster, as often as is worth it."""


@dataclass(frozen=True)
class Order:
    """What is to be cancelled.

    Args:
        attempts: In which of them there may be jobs.
        jobs: The jobs that are known, also where the attempt's directory was removed.
        coming: Which of the attempts a request on its way may still make, and submit.
    """

    attempts: tuple[RunDirectory, ...]
    jobs: tuple[JobHandle, ...] = ()
    coming: tuple[RunDirectory, ...] = ()

    def to_json(self) -> str:
        """The order as text, for `from_json` of another process."""
        jobs = [[job.directory.relative, job.job_id, job.generation] for job in self.jobs]
        attempts, coming = ([each.relative for each in some] for some in (self.attempts, self.coming))
        return json.dumps({"attempts": attempts, "jobs": jobs, "coming": coming})

    @classmethod
    def from_json(cls, text: str, base: str) -> Order:
        """What `to_json` has written.

        Raises:
            ValueError: It is none.
        """
        try:
            told = json.loads(text)
            return cls(
                tuple(RunDirectory.from_relative(base, each) for each in told["attempts"]),
                tuple(JobHandle(RunDirectory.from_relative(base, at), str(job), int(n)) for at, job, n in told["jobs"]),
                # Orders of a release that made attempts before it submitted have none.
                tuple(RunDirectory.from_relative(base, each) for each in told.get("coming", ())),
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{text[:200]!r} is no order to cancel jobs") from error


@dataclass(frozen=True)
class Withdrawal:
    """What came of an order.

    Args:
        jobs: The jobs that were to be cancelled.
        strangers: What Slurm has under the number of one of them, and is not of this piece of work.
        undone: What could not be done, and why.
    """

    jobs: tuple[JobHandle, ...] = ()
    strangers: tuple[QueueEntry, ...] = ()
    undone: tuple[str, ...] = ()


class Canceller:
    """Carries out orders on a cluster. What fails leaves the rest to be tried.

    Args:
        cluster: The cluster.
        make: How a call is made that may fail.
    """

    def __init__(self, cluster: SlurmCluster, make: Make[object] = lambda call: call()) -> None:
        self._cluster = cluster
        self._make = make
        self._undone: list[str] = []

    def carry_out(self, order: Order) -> Withdrawal:
        """See to it that no job of the attempts begins its payload any more, and cancel those that there may be."""
        self._undone = []
        jobs = {job.job_id: job for job in order.jobs}
        names: list[str] = []
        for attempt in order.attempts:
            withdraw = partial(Claims(self._cluster).withdraw, attempt, is_coming=attempt in order.coming)
            withdrawn = self._try("looking for the job", withdraw)
            if withdrawn is not None:
                found = withdrawn.jobs.items()
                jobs |= {job_id: JobHandle(attempt, job_id, generation) for job_id, generation in found}
                names += withdrawn.job_names
        mine, strangers = self._cancel(tuple(jobs.values()))
        self._cancel_by_name(names)
        return Withdrawal(mine, strangers, tuple(self._undone))

    def left_of(self, withdrawal: Withdrawal) -> str:
        """What of an order is still to be done, as far as Slurm says; empty when all its jobs have ended."""
        if withdrawal.undone:
            return "; ".join(withdrawal.undone)
        self._undone = []
        job_ids = [job.job_id for job in withdrawal.jobs]
        entries = self._try("squeue", lambda: self._cluster.queue(job_ids)) if job_ids else {}
        if entries is None:
            return "; ".join(self._undone)
        over = self._over(withdrawal.jobs)
        waited = [
            f"{job_id} is {entry.state}"
            for job_id, entry in entries.items()
            if not (entry.state.is_terminal or job_id in over)
        ]
        return ", ".join(waited)

    def _over(self, jobs: Sequence[JobHandle]) -> set[str]:
        """The steps that have ended, by their own lines and those of their dispatchers: squeue has their allocation."""
        steps = [job for job in jobs if JobId.parse(job.job_id).is_request]
        if not steps:
            return set()
        seen = self._try("a look at steps", lambda: look(self._cluster, [step.directory for step in steps]))
        if seen is None:
            return set()
        found = {step: seen.listing.attempts(step.directory).get(step.directory.attempt) for step in steps}
        return {step.job_id for step, attempt in found.items() if attempt is None or _is_over(attempt)}

    def _cancel(self, jobs: Sequence[JobHandle]) -> tuple[tuple[JobHandle, ...], tuple[QueueEntry, ...]]:
        """Cancel jobs, but for those under whose number Slurm has another's by now."""
        steps = tuple(job for job in jobs if JobId.parse(job.job_id).is_request)
        for step in steps:
            self._try(f"the cancellation of step {step.job_id}", partial(self._cancel_step, step))
        jobs = tuple(job for job in jobs if job not in steps)
        if not jobs:
            return steps, ()
        entries = self._try("squeue", lambda: self._cluster.queue([job.job_id for job in jobs]))
        if entries is None:
            # A name tells whose a job is; it is all there is where a site has changed the names.
            self._cancel_by_name([job.directory.job_name(job.generation) for job in jobs])
            return (*steps, *jobs), ()
        others = {job.job_id: entries[job.job_id] for job in jobs if job.job_id in entries and not _is_of(entries, job)}
        mine = tuple(job for job in jobs if job.job_id not in others)
        job_ids = [job.job_id for job in mine]
        if job_ids:
            self._try(f"scancel {' '.join(job_ids)}", lambda: self._cluster.cancel(job_ids))
        return (*steps, *mine), tuple(others.values())

    def _cancel_step(self, step: JobHandle) -> None:
        """Have the dispatcher of its session do so; one that is not there any more has left nothing running."""
        answer = self._cluster.script("cancel_step", (step.directory.path, JobId.parse(step.job_id).step[1:]))
        self._cluster.refuse("the mailbox of the session", answer)

    def _cancel_by_name(self, names: Iterable[str]) -> None:
        if names:
            self._try("scancel --name", lambda: self._cluster.cancel_by_name(names))

    def _try(self, what: str, call: Callable[[], T]) -> T | None:
        try:
            return self._make(call)  # type: ignore[return-value]
        except DagsterSlurmError as error:
            self._undone.append(f"{what} has not succeeded: {error.message}")
            return None


def _is_over(attempt: AttemptRecord) -> bool:
    """Whether all elements of a step that have begun have ended; what has not begun is revoked, or given up."""
    return not attempt.marks or any(isinstance(mark, OverMark | EndMark) for mark in attempt.marks)


def _is_of(entries: Mapping[str, QueueEntry], job: JobHandle) -> bool:
    return job.is_of(entries[job.job_id])
