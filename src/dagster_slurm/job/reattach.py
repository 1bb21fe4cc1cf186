"""What is already known of a piece of work: a job to follow, or the attempt that is to be begun.

Asked before anything is uploaded, in one round trip. Every answer is one of the cluster's own files or of Slurm itself,
so that it does not matter which process asks, nor which one died. What these do not tell at once is not waited for:
whoever follows the job sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.description import Description
from dagster_slurm.cluster.judge import Patience, Silence, Witnesses, judge
from dagster_slurm.cluster.look import Ask, Look, SlurmAnswers
from dagster_slurm.cluster.records import AttemptRecord
from dagster_slurm.cluster.status_file import EndMark, StartMark
from dagster_slurm.job.handle import JobHandle
from dagster_slurm.job.retrying import Outcome
from dagster_slurm.job.submission import look_for_jobs
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry
from dagster_slurm.slurm.states import JobState

_FRESH_SECONDS = 300


@dataclass(frozen=True)
class Found:
    """What is known of a piece of work.

    Args:
        directory: The attempt that goes on, or the one to begin.
        handle: Its job; None if the attempt is to be begun.
        is_over: Whether the job had left the queue when it was looked for; how it ended, whoever follows it sees.
        description: What its `launch.json` tells.
        outcomes: How the attempts before this one ended.
        was_elsewhere: Whether the job was another launch's, and was adopted just now.
    """

    directory: RunDirectory
    handle: JobHandle | None = None
    is_over: bool = False
    description: Description = field(default_factory=Description)
    outcomes: tuple[Outcome, ...] = ()
    was_elsewhere: bool = False


@dataclass(frozen=True)
class Others:
    """Where else a job may be that does this piece of work.

    Args:
        launches: Launches of the same work under another key, the most recent first; a live job there is adopted.
        asset_digest: Stands for an asset and partition; a live job for it is adopted as well. Empty for none.
        is_abandoned: Tells whether nobody works on an attempt for the asset any more.
    """

    launches: Sequence[RunDirectory] = ()
    asset_digest: str = ""
    is_abandoned: Callable[[Description], bool] = lambda description: False


class Reattachment:
    """Looks for the jobs of pieces of work on one cluster. Each call may be repeated at any time.

    Args:
        cluster: The cluster.
    """

    def __init__(self, cluster: SlurmCluster) -> None:
        self._cluster = cluster
        self._claims = Claims(cluster)

    def find(
        self,
        launch: RunDirectory,
        *,
        is_same: Callable[[Description], bool] = lambda description: False,
        others: Others | None = None,
    ) -> Found:
        """The job that does this piece of work, or has done it; without one, the attempt that is to be begun.

        An attempt that was made just now and not submitted yet is taken up as it is if it is of the same content: of
        two processes that begin at the same moment, one submits. Any other is closed: its content may be out of date.

        A job is provably not there when its attempt is closed: then nothing can be submitted in it any more.

        Args:
            launch: Any attempt at this piece of work.
            is_same: Tells from what `launch.json` holds whether an attempt is of the content that this call has.
            others: Where to look as well, if nothing was begun in this launch.

        Raises:
            ProtocolVersionError: Another release has made the attempt, and this one cannot go on with it.
            SlurmUnavailableError: Slurm does not answer; nothing follows from that.
        """
        others = others or Others()
        while True:
            seen = look_for_jobs(
                self._cluster, [launch, *others.launches], asset_digest=others.asset_digest, ask=Ask.JOBS
            )
            newest = seen.listing.newest(launch) if seen.listing.launches else None
            if newest is None:
                return self._elsewhere(seen, launch.of_attempt(0), others)
            found = self._of(launch, *newest, seen, is_same)
            if found is not None:
                return found

    def _of(
        self,
        launch: RunDirectory,
        number: int,
        attempt: AttemptRecord,
        seen: Look,
        is_same: Callable[[Description], bool],
    ) -> Found | None:
        """What follows from the newest attempt; None if somebody has made another one meanwhile."""
        outcomes = _outcomes_before(number, seen.listing.attempts(launch))
        self._claims.refuse_other_protocol(attempt)
        if _is_fresh(attempt, seen.listing.now) and is_same(attempt.description):
            return Found(attempt.directory, outcomes=outcomes)
        job_id = self._claims.job_id(attempt, seen.slurm)
        ended = None
        if job_id is not None:
            stands = stand_of(job_id, attempt, seen.slurm)
            if stands.outcome is None:
                handle = JobHandle(attempt.directory, job_id, attempt.generation or 0)
                return Found(attempt.directory, handle, stands.is_over, attempt.description, outcomes)
            ended = stands.outcome
        if not attempt.is_closed and not self._close(attempt, ended):
            return None
        known = Outcome.from_json(attempt.outcome) if attempt.is_closed else ended
        return Found(launch.of_attempt(number + 1), outcomes=(*outcomes, *([known] if known else [])))

    def _elsewhere(self, seen: Look, first: RunDirectory, others: Others) -> Found:
        """A job of another launch that goes on, which becomes an attempt of this one; else the first attempt."""
        for other in [*others.launches, *self._of_asset(seen, others)]:
            newest = seen.listing.newest(other)
            found = self._live(newest[1], seen) if newest is not None else None
            if found is not None and self._claims.adopt(first, found.directory):
                return found
        return Found(first)

    def _of_asset(self, seen: Look, others: Others) -> list[RunDirectory]:
        target = seen.listing.newest_of_assets.get(others.asset_digest)
        if target is None:
            return []
        launch = RunDirectory.from_relative(self._cluster.base(), target)
        newest = seen.listing.newest(launch)
        return [launch] if newest is not None and others.is_abandoned(newest[1].description) else []

    def _live(self, attempt: AttemptRecord, seen: Look) -> Found | None:
        self._claims.refuse_other_protocol(attempt)
        job_id = self._claims.job_id(attempt, seen.slurm)
        if job_id is None or not stand_of(job_id, attempt, seen.slurm).is_live:
            return None
        handle = JobHandle(attempt.directory, job_id, attempt.generation or 0)
        return Found(attempt.directory, handle, description=attempt.description, was_elsewhere=True)

    def _close(self, attempt: AttemptRecord, outcome: Outcome | None) -> bool:
        words = outcome.to_json() if outcome else ""
        return self._claims.close(attempt.directory, generation=attempt.generation, outcome=words)


@dataclass(frozen=True)
class Stand:
    """How a job stood at a look.

    Args:
        is_live: Whether squeue says that it goes on.
        is_over: Whether it has left the queue.
        outcome: How it ended, if it has provably ended without success.
    """

    is_live: bool = False
    is_over: bool = False
    outcome: Outcome | None = None


def stand_of(job_id: str, attempt: AttemptRecord, said: SlurmAnswers) -> Stand:
    """How a job stood at a look, as far as its witnesses told at once. Pure."""
    marks = [mark for mark in attempt.marks if mark.job_id == job_id]
    end_mark = marks[-1] if marks and isinstance(marks[-1], EndMark) else None
    started_at = next((mark.at_epoch_seconds for mark in reversed(marks) if isinstance(mark, StartMark)), None)
    record = said.accounting.get(job_id)
    is_mine = partial(attempt.directory.is_of, generation=attempt.generation, started_at=started_at)
    queue = _queue_word(job_id, attempt, said, is_mine)
    if isinstance(queue, JobState) and not queue.is_terminal:
        # Whatever else is known: of one that was requeued sacct may know the end of the run before.
        return Stand(is_live=True)
    seen = Witnesses(end_mark, queue, _accounting_word(record, said, is_mine))
    verdict = judge(seen, Patience())
    if verdict.state is None or (verdict.state.is_success and end_mark is not None):
        return Stand(is_over=seen.is_over)
    return Stand(
        is_over=True,
        outcome=Outcome.of(verdict.state, end_mark, record if seen.accounting is not Silence.NOT_OURS else None),
    )


_IsMine = Callable[[QueueEntry | AccountingRecord], bool]


def _queue_word(job_id: str, attempt: AttemptRecord, said: SlurmAnswers, is_mine: _IsMine) -> JobState | Silence:
    entry = said.queue.get(job_id) or said.names.get(attempt.directory.job_name(attempt.generation or 0))
    if entry is None:
        return Silence.GONE if job_id in said.queue_asked else Silence.NOT_KNOWN
    return entry.state if is_mine(entry) else Silence.NOT_OURS


def _accounting_word(record: AccountingRecord | None, said: SlurmAnswers, is_mine: _IsMine) -> JobState | Silence:
    if record is not None:
        return record.state if is_mine(record) else Silence.NOT_OURS
    if said.is_accounting_off:
        return Silence.NONE_KEPT
    error = said.accounting_error
    return Silence.NOT_KNOWN if error is None or error.transient else Silence.REFUSED


def _outcomes_before(number: int, attempts: dict[int, AttemptRecord]) -> tuple[Outcome, ...]:
    found = (Outcome.from_json(attempt.outcome) for at, attempt in attempts.items() if at < number)
    return tuple(outcome for outcome in found if outcome is not None)


def _is_fresh(attempt: AttemptRecord, now: float) -> bool:
    return not attempt.claims and not attempt.is_closed and now - attempt.made_at < _FRESH_SECONDS
