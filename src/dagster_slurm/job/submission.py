"""One job for one piece of work, whatever is lost on the way to Slurm and back: found again, or submitted once.

What is known is asked before anything is uploaded, in one round trip. Every answer is one of the cluster's own files or
of Slurm itself, so that it does not matter which process asks, nor which one died. What these do not tell at once is
not waited for: whoever follows the job sees it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.claims import UNSETTLED, Claims
from dagster_slurm.cluster.description import Description
from dagster_slurm.cluster.judge import Patience, Silence, at_a_look, judge
from dagster_slurm.cluster.look import Ask, Look, SlurmAnswers, look
from dagster_slurm.cluster.records import AttemptRecord
from dagster_slurm.errors import ResultLostError, SubmissionUnknownError, SubmitLimitError
from dagster_slurm.job.retrying import Outcome, outcomes_from_json, outcomes_to_json
from dagster_slurm.run_directory import ONE, JobHandle, RunDirectory
from dagster_slurm.transport import TreeEntry

# How long a try to submit is expected to be answered; after that, whoever made it may be gone.
_ANSWER_SECONDS = 15.0


def submit_once(
    claims: Claims,
    directory: RunDirectory,
    files: Sequence[TreeEntry] = (),
    *,
    slow: Callable[[str], None] = lambda said: None,
) -> JobHandle:
    """Submit an attempt, or find the job that an earlier call has submitted. May be repeated at any time.

    A try whose outcome is not known is settled first: its job is taken, or the try is revoked at its gate. Only then
    there is another try.

    Args:
        claims: The attempts on the cluster.
        directory: The attempt.
        files: What it is made of, unless it is there; small ones, see `are_small`.
        slow: Called, maybe again and again, with what there is to say of an sbatch that takes long.

    Raises:
        SubmissionRejectedError: sbatch refused; no job exists.
        SubmitLimitError: Slurm takes no more jobs until others have ended; no job exists.
        AttemptClosedError: Another process has closed the attempt; the piece of work is to be looked for again.
        SlurmUnavailableError: Slurm does not answer. Whatever this call left behind, the next one finds it.
        SlurmOutputError: sbatch's answer names no job, and Slurm knows none by its name.
    """
    generation = 0
    while True:
        answer = claims.try_to_submit(directory, files, generation=generation, slow=slow)
        if answer.error is None:
            return JobHandle(directory, answer.job_id, generation)
        if isinstance(answer.error, SubmitLimitError) and not answer.made_now:
            # A refusal of before, for good: it has no job. Its place is taken, and there is another one.
            generation = max(generation + 1, claims.newest(directory))
            continue
        if not isinstance(answer.error, UNSETTLED):
            raise answer.error
        job_id = claims.settle(directory, generation=generation)
        if job_id is not None:
            return JobHandle(directory, job_id, generation)
        if answer.made_now and not isinstance(answer.error, SubmissionUnknownError):
            # Slurm is away now: the caller pauses before there is another try. Or its answers cannot be read.
            raise answer.error
        generation += 1


def look_for_jobs(
    cluster: SlurmCluster,
    launches: Sequence[RunDirectory],
    *,
    asset_digest: str = "",
    ask: Ask,
    may_be_lost: str = "",
) -> Look:
    """Look at pieces of work; what is being submitted at this moment is waited for a while."""
    until = time.monotonic() + _ANSWER_SECONDS
    while True:
        seen = look(cluster, launches, asset_digest=asset_digest, ask=ask, may_be_lost=may_be_lost)
        is_unanswered = seen.listing.launches and any(_is_being_submitted(launch, seen) for launch in launches)
        if not is_unanswered or time.monotonic() >= until:
            return seen
        time.sleep(1.0)


def _is_being_submitted(launch: RunDirectory, seen: Look) -> bool:
    return any(_is_unanswered(attempt, seen) for attempt in seen.listing.attempts(launch).values())


def _is_unanswered(attempt: AttemptRecord, seen: Look) -> bool:
    if attempt.is_closed or not attempt.claims:
        return False
    claim = attempt.claims[-1]
    is_known = claim.answer or claim.owner or seen.slurm.names.get(attempt.directory.job_name(claim.generation))
    return not is_known and seen.listing.now - claim.made_at < _ANSWER_SECONDS


_FRESH_SECONDS = 300


@dataclass(frozen=True)
class Open:
    """An attempt that has a job, and in which something may still happen.

    Args:
        number: Its number in the launch.
        handle: The job.
        description: What its `launch.json` tells.
        units: What it executes, in the order of its elements; `ONE` alone for a job of its own.
        left: Those of them that no later attempt has.
        over: Those of them that had left the queue at the look; how they ended, whoever follows them sees.
    """

    number: int
    handle: JobHandle
    description: Description
    units: tuple[str, ...]
    left: tuple[str, ...]
    over: frozenset[str]


@dataclass(frozen=True)
class Known:
    """What is known of a piece of work.

    Args:
        open: The attempts that have jobs, the oldest first.
        following: The number of the attempt that comes next.
        begun: What its `launch.json` tells if somebody has made it just now, and has not submitted it.
        outcomes: How the attempts before have ended, by unit.
        was_elsewhere: Whether the open ones were another launch's, and were adopted just now.
    """

    open: tuple[Open, ...] = ()
    following: int = 0
    begun: Description | None = None
    outcomes: Mapping[str, tuple[Outcome, ...]] = field(default_factory=dict)
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
        began_before: bool = False,
    ) -> Known:
        """The jobs that do this piece of work, or have done it, and the number of the attempt that comes next.

        An attempt that was made just now and not submitted yet is taken up as it is if it is of the same content: of
        two processes that begin at the same moment, one submits. Any other is closed: its content may be out of date.

        A job is provably not there when its attempt is closed: then nothing can be submitted in it any more.

        Args:
            launch: Any attempt at this piece of work.
            is_same: Tells from what `launch.json` holds whether an attempt is of the content that this call has.
            others: Where to look as well, if nothing was begun in this launch.
            began_before: Whether somebody may have begun with this piece of work, so that a job of it may have lost its
                directory.

        Raises:
            ProtocolVersionError: Another release has made an attempt, and this one cannot go on with it.
            SlurmUnavailableError: Slurm does not answer; nothing follows from that.
            ResultLostError: An array does this piece of work, and its directory was removed.
        """
        others = others or Others()
        while True:
            seen = look_for_jobs(
                self._cluster,
                [launch, *others.launches],
                asset_digest=others.asset_digest,
                ask=Ask.JOBS,
                may_be_lost=launch.key if began_before else "",
            )
            attempts = seen.listing.attempts(launch)
            if not attempts:
                elsewhere = self._elsewhere(seen, launch, others)
                return elsewhere if elsewhere.open else self._without_directory(seen, launch)
            found = self._of(attempts, seen, is_same)
            if found is not None:
                return found

    def _of(
        self, attempts: Mapping[int, AttemptRecord], seen: Look, is_same: Callable[[Description], bool]
    ) -> Known | None:
        """What follows from the attempts; None if somebody has gone on with one of them meanwhile."""
        following, outcomes = max(attempts) + 1, outcomes_of(attempts.values())
        begun: Description | None = None
        found: list[Open] = []
        later: set[str] = set()
        for number, attempt in sorted(attempts.items(), reverse=True):
            self._claims.refuse_other_protocol(attempt)
            if number == following - 1 and _is_fresh(attempt, seen.listing.now) and is_same(attempt.description):
                following, begun = number, attempt.description
                later.update(_units(attempt))
                continue
            opened = self._open(number, attempt, later, seen.slurm)
            later.update(_units(attempt))
            if isinstance(opened, Open):
                found.append(opened)
            elif not attempt.is_closed:
                if not self._close(attempt, opened):
                    return None
                if opened is not None:
                    outcomes = {**outcomes, ONE: (*outcomes.get(ONE, ()), opened)}
        return Known(tuple(reversed(found)), following, begun, outcomes)

    def _open(
        self, number: int, attempt: AttemptRecord, later: Collection[str], slurm: SlurmAnswers
    ) -> Open | Outcome | None:
        """An attempt that has a job; of one whose job has provably ended without success, how; None without a job."""
        job_id = self._claims.job_id(attempt, slurm)
        if job_id is None:
            return None
        told, units = attempt.description, _units(attempt)
        handle = attempt.handle(job_id)
        left = tuple(unit for unit in units if unit not in later)
        if told.elements:
            over = frozenset(
                unit for unit in left if stand_of(handle.of(units.index(unit)).job_id, attempt, slurm).is_over
            )
            return Open(number, handle, attempt.description, units, left, over)
        stands = stand_of(job_id, attempt, slurm)
        if stands.outcome is not None:
            return stands.outcome
        return Open(number, handle, attempt.description, units, left, frozenset(units if stands.is_over else ()))

    def _elsewhere(self, seen: Look, launch: RunDirectory, others: Others) -> Known:
        """Jobs of another launch that go on, which become attempts of this one; else nothing."""
        for other in [*others.launches, *self._of_asset(seen, others)]:
            live: list[Open] = []
            for attempt in seen.listing.attempts(other).values():
                self._claims.refuse_other_protocol(attempt)
                found = self._open(len(live), attempt, (), seen.slurm)
                if isinstance(found, Open) and _is_live(found, attempt, seen.slurm):
                    live.append(found)
            if live and all(self._claims.adopt(launch.of_attempt(each.number), each.handle.directory) for each in live):
                return Known(tuple(live), len(live), was_elsewhere=True)
        return Known()

    def _without_directory(self, seen: Look, launch: RunDirectory) -> Known:
        """A job that goes on, and whose directory somebody has removed: Slurm alone tells its end."""
        live = {
            tried: each
            for each in seen.slurm.own
            if not each.state.is_terminal and (tried := launch.try_named(each.name))
        }
        if not live:
            return Known()
        (number, generation), entry = max(live.items())
        handle = JobHandle(launch.of_attempt(number), entry.array_job_id, generation)
        if entry.array_task_id is not None:
            raise ResultLostError(
                f"Slurm array {entry.array_job_id} does this piece of work, and its run directory "
                f"{handle.directory.path} was removed",
                hint=f"Nothing is submitted beside it. Wait for its end, or cancel it: `scancel {entry.array_job_id}`.",
                host=self._cluster.host,
                job_id=entry.array_job_id,
            )
        return Known((Open(number, handle, Description(), (ONE,), (ONE,), frozenset()),), number + 1)

    def _of_asset(self, seen: Look, others: Others) -> list[RunDirectory]:
        target = seen.listing.newest_of_assets.get(others.asset_digest)
        if target is None:
            return []
        launch = RunDirectory.from_relative(self._cluster.base(), target)
        newest = seen.listing.newest(launch)
        return [launch] if newest is not None and others.is_abandoned(newest[1].description) else []

    def _close(self, attempt: AttemptRecord, outcome: Outcome | None) -> bool:
        words = outcomes_to_json({None: outcome}) if outcome else ""
        return self._claims.close(attempt.directory, generation=attempt.generation, outcome=words)


def _is_live(found: Open, attempt: AttemptRecord, said: SlurmAnswers) -> bool:
    """Whether squeue says of any part that it goes on; a job of another that has its number does not live here."""
    is_array = bool(attempt.description.elements)
    jobs = [found.handle.of(element) for element in range(len(found.units))] if is_array else [found.handle]
    return any(stand_of(job.job_id, attempt, said).is_live for job in jobs)


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
    generation, record = attempt.generation, said.accounting.get(job_id)
    seen = at_a_look(
        attempt,
        job_id,
        generation,
        said.queue.get(job_id) or said.names.get(attempt.directory.job_name(generation or 0)),
        record,
        without_entry=Silence.GONE if job_id in said.queue_asked else Silence.NOT_KNOWN,
        # Whether it is refused for good, who follows the job finds out.
        without_record=Silence.NONE_KEPT if said.is_accounting_off else Silence.NOT_KNOWN,
    )
    verdict = judge(seen, Patience())
    if verdict.state is None or (verdict.state.is_success and seen.end_mark is not None):
        return Stand(seen.is_live, seen.is_over)
    mine = None if seen.accounting is Silence.NOT_OURS else record
    return Stand(is_over=True, outcome=Outcome.of(verdict.state, seen.end_mark, mine))


def outcomes_of(attempts: Iterable[AttemptRecord]) -> dict[str, tuple[Outcome, ...]]:
    """How a launch's attempts have ended, by unit. Pure.

    Args:
        attempts: The oldest first. What was known when one was begun stands in its `launch.json`; what came of it, if
            it is closed, beside it.
    """
    found: dict[str, tuple[Outcome, ...]] = {}
    for attempt in attempts:
        units = _units(attempt)
        for unit, earlier in zip(attempt.description.elements, attempt.description.earlier, strict=False):
            found[unit] = tuple(filter(None, map(Outcome.from_value, earlier)))
        for element, outcome in outcomes_from_json(attempt.outcome).items():
            if (element or 0) < len(units):
                unit = units[element or 0]
                found[unit] = (*found.get(unit, ()), outcome)
    return found


def _units(attempt: AttemptRecord) -> tuple[str, ...]:
    return attempt.description.elements or (ONE,)


def _is_fresh(attempt: AttemptRecord, now: float) -> bool:
    return not attempt.claims and not attempt.is_closed and now - attempt.made_at < _FRESH_SECONDS
