"""Which job is which: what lies in the directories, beside what Slurm says. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.description import Description, EndMark, Mark, OverMark, StartMark, end_mark_of
from dagster_slurm.cluster.judge import Patience, Silence, Witnesses, at_a_look, judge
from dagster_slurm.cluster.look import look_at_all
from dagster_slurm.cluster.records import REVOKED, AttemptRecord, ClaimRecord, LaunchRecord, Listing
from dagster_slurm.errors import SlurmCommandError
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm import arrays
from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.slurm.output import AccountingRecord, UserQueueEntry
from dagster_slurm.slurm.states import JobState, StatePhase


@dataclass(frozen=True)
class Piece:
    """What is kept or removed together.

    Args:
        launches: The launch whose job it is first, then those that have adopted it.
    """

    launches: tuple[LaunchRecord, ...]

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        """All attempts that lie in it."""
        return tuple(attempt for launch in self.launches for attempt in launch.attempts)

    @property
    def description(self) -> Description:
        """Which piece of work it is, as its newest attempt tells."""
        return self.attempts[-1].description if self.attempts else Description()

    @property
    def origin_run_ids(self) -> tuple[str, ...]:
        """The runs in which it was asked for; a run's directory has the name of the run."""
        told = [attempt.description.origin_run_id for attempt in self.attempts]
        return tuple(dict.fromkeys(filter(None, [*told, *(launch.run for launch in self.launches)])))


def pieces_of(listing: Listing) -> list[Piece]:
    """All pieces of work that lie there, in the order of their directories. What is empty or only half-made is none."""
    launches = {launch.path: launch for launch in listing.launches if _is_more_than_half_made(launch)}
    group = {path: {path} for path in launches}
    for launch in launches.values():
        for target in launch.adopted.values():
            other = target.rpartition("/")[0]
            if other in group:
                joined = group[launch.path] | group[other]
                group.update(dict.fromkeys(joined, joined))
    distinct = {min(paths): paths for paths in group.values()}
    return [Piece(_owners_first(launches[path] for path in sorted(paths))) for _, paths in sorted(distinct.items())]


def _is_more_than_half_made(launch: LaunchRecord) -> bool:
    return bool(launch.attempts or launch.adopted or launch.unknown) or launch.checkpoint is not None


def _owners_first(launches: Iterable[LaunchRecord]) -> tuple[LaunchRecord, ...]:
    return tuple(sorted(launches, key=lambda launch: (not launch.attempts, launch.path)))


@dataclass(frozen=True)
class Snapshot:
    """What was seen.

    Args:
        listing: What lies there.
        jobs: All jobs of ours.
        accounting: What sacct says of those about which it was asked.
        notice: Why sacct was asked in vain; empty if it was not.
    """

    listing: Listing
    jobs: Sequence[SeenJob]
    accounting: Accounting
    notice: str = ""


def snapshot(cluster: SlurmCluster, *, is_open: Callable[[SeenJob], bool]) -> Snapshot:
    """Look.

    The queue is asked after the listing: a job that is submitted in between is in the queue, or its claim is new when
    something is to be removed.

    Args:
        cluster: The cluster.
        is_open: Of which jobs sacct has to tell.

    Raises:
        TransportError: The cluster could not be reached.
        SlurmUnavailableError: squeue has no answer.
    """
    cluster.refuse_foreign_base()
    listing = look_at_all(cluster)
    jobs = seen_jobs(listing, cluster.queue_of_user())
    asked = {job.accounted_as: job.job_id for job in jobs if is_open(job) and job.accounted_as}
    notice, accounting = "", Accounting({})
    if asked:
        try:
            records = cluster.accounting(list(asked))
            named = {asked.get(job_id, job_id): record for job_id, record in (records or {}).items()}
            accounting = Accounting(named, is_off=records is None)
        except SlurmCommandError as error:
            accounting = Accounting({}, is_off=error.is_missing_program)
            notice = "" if error.is_missing_program else error.message
    return Snapshot(listing, jobs, accounting, notice)


_WAITS = StatePhase.WAITING
# `RunDirectory.job_name`: the step, twelve digits of its key, and the numbers of a later try.
_JOB_NAME = re.compile(r"(?P<step>.+)-[0-9a-f]{12}(?:\.\d+\.\d+)?")


def step_of_name(job_name: str) -> str | None:
    """The step, as far as a job's name tells; None for that of another job than of a run."""
    found = _JOB_NAME.fullmatch(job_name)
    return found["step"] if found else None


class Fate(Enum):
    """What became of a job, as far as its witnesses tell."""

    NONE = "it never ran"
    LIVE = "it is in the queue"
    COMPLETED = "it ended with success"
    ENDED = "it ended without success"
    NOT_KNOWN = "it has left the queue, and no witness tells how"


@dataclass(frozen=True)
class Accounting:
    """What sacct says of the jobs that squeue does not know.

    Args:
        records: By job id.
        is_off: Whether the cluster keeps none, so that nothing follows from its silence.
    """

    records: Mapping[str, AccountingRecord]
    is_off: bool = False


@dataclass(frozen=True)
class SeenJob:
    """A job of ours.

    Args:
        job_id: Its id.
        name: Its name.
        attempt: Where it lies; None if its directory is gone.
        claim: The try to submit that brought it.
        queued: What squeue knows.
        marks: What it wrote itself at its starts and ends.
        tasks: Of an array, all that squeue knows of its tasks.
        components: Of a heterogeneous job, all that squeue knows of its components, in their order.
    """

    job_id: str
    name: str
    attempt: AttemptRecord | None = None
    claim: ClaimRecord | None = None
    queued: UserQueueEntry | None = None
    marks: tuple[Mark, ...] = ()
    tasks: tuple[UserQueueEntry, ...] = ()
    components: tuple[UserQueueEntry, ...] = ()

    @property
    def place(self) -> RunDirectory | None:
        """Where it lies or, if that is gone, has lain; None if Slurm does not know."""
        return self.attempt.directory if self.attempt else RunDirectory.from_work(self._work_directory)

    @property
    def _work_directory(self) -> str | None:
        return self.queued.entry.work_directory if self.queued else None

    @property
    def step_of_name(self) -> str:
        """The step, as far as its name tells."""
        return step_of_name(self.name) or self.name

    @property
    def is_live(self) -> bool:
        """Whether squeue says that it has not ended."""
        return self.queued is not None and not self.queued.entry.state.is_terminal

    @property
    def is_step(self) -> bool:
        """Whether it is a step of a session."""
        return JobId.parse(self.job_id).is_request

    @property
    def accounted_as(self) -> str:
        """What sacct is asked about: of a step of a session its number, or nothing while it has none."""
        if not self.is_step:
            return self.job_id
        step = next((mark.step for mark in reversed(self.marks) if isinstance(mark, StartMark) and mark.step), "")
        return f"{JobId.parse(self.job_id).in_queue}.{step}" if step else ""


def seen_jobs(listing: Listing, queue: Sequence[UserQueueEntry]) -> list[SeenJob]:
    """Every job of the directories, and of the queue by its name, each once; the oldest number first.

    A number does not tell a job from one of before the cluster was set up anew: name or directory has to be ours.
    """
    by_name: dict[str, list[UserQueueEntry]] = {}
    by_id = {each.entry.array_job_id: each for each in _as_arrays(queue)}
    tasks: dict[str, list[UserQueueEntry]] = {}
    for each in queue:
        if each.entry.array_task_id is not None:
            tasks.setdefault(each.entry.array_job_id, []).append(each)
    for each in by_id.values():
        by_name.setdefault(each.entry.name, []).append(each)
    found = [
        job
        for launch in listing.launches
        for attempt in launch.attempts
        for claim in attempt.claims
        for job in _jobs_of(attempt, claim, _queued(attempt, claim, by_name, by_id))
    ]
    found += [
        SeenJob(each.entry.array_job_id, name, queued=each)
        for name, entries in by_name.items()
        if step_of_name(name) is not None
        for each in entries
    ]
    known = (replace(job, tasks=tuple(tasks.get(job.job_id, ()))) if job.queued else job for job in found)
    return sorted(known, key=lambda job: JobId.parse(job.job_id))


def _as_arrays(queue: Sequence[UserQueueEntry]) -> list[UserQueueEntry]:
    """One line for each job array: that of a task which runs, or has not ended, if there is one."""
    found: dict[str, UserQueueEntry] = {}
    for each in sorted(queue, key=lambda each: (arrays.rank(each.entry.state), each.entry.state.phase is _WAITS)):
        found.setdefault(each.entry.array_job_id, each)
    return list(found.values())


def _queued(
    attempt: AttemptRecord,
    claim: ClaimRecord,
    by_name: dict[str, list[UserQueueEntry]],
    by_id: Mapping[str, UserQueueEntry],
) -> list[UserQueueEntry]:
    """What squeue has of a try to submit: by its name, and where a site has changed that by its directory."""
    found = by_name.pop(attempt.directory.job_name(claim.generation), [])
    job_id = JobId.find(claim.job_id)
    if job_id is None:
        return found
    # Of a step of a session, it has the allocation, until the step is over.
    is_over = any(isinstance(mark, OverMark | EndMark) for mark in attempt.marks) and job_id.is_request
    renamed = None if is_over else by_id.get(job_id.in_queue)
    handle = replace(attempt.handle(claim.job_id), generation=claim.generation)
    if renamed is None or renamed in found or not handle.is_of(renamed.entry):
        return found
    return [*found, renamed]


def _jobs_of(attempt: AttemptRecord, claim: ClaimRecord, queued: Sequence[UserQueueEntry]) -> Iterator[SeenJob]:
    name = attempt.directory.job_name(claim.generation)
    entries = {claim.job_id if attempt.session else each.entry.array_job_id: each for each in queued}
    if attempt.description.components > 1:
        yield from _hetjob(attempt, claim, [entries[number] for number in sorted(entries, key=int)])
        return
    # A submission whose answer was lost has a job that only the queue knows.
    for job_id in dict.fromkeys([*filter(JobId.find, [claim.job_id]), *entries]):
        mine = tuple(mark for mark in attempt.marks if mark.job_id == job_id)
        yield SeenJob(job_id, name, attempt, claim, entries.get(job_id), mine)


def _hetjob(attempt: AttemptRecord, claim: ClaimRecord, parts: Sequence[UserQueueEntry]) -> Iterator[SeenJob]:
    """One job, with the number of its leader, which is the lowest; its components have others."""
    job_id = claim.job_id or (parts[0].entry.job_id if parts else "")
    if JobId.find(job_id):
        leader = next((each for each in parts if each.entry.job_id == job_id), None)
        name = attempt.directory.job_name(claim.generation)
        yield SeenJob(job_id, name, attempt, claim, leader, components=tuple(parts))


def end_of(job: SeenJob) -> EndMark | None:
    """The line that the batch script wrote at its end, if that is the last one."""
    return end_mark_of(job.marks)


def record_of(job: SeenJob, accounting: Accounting) -> AccountingRecord | None:
    """What sacct says of a job; what it says of another job of that number is not about it."""
    record = accounting.records.get(job.job_id)
    return record if record is not None and _witnesses(job, accounting).accounting is record.state else None


def tasks_of(job: SeenJob, accounting: Accounting) -> Mapping[JobState, int]:
    """How many tasks of an array are in which state, as far as squeue and sacct tell; empty for another job."""
    if job.attempt is None:
        return arrays.tally([each.entry for each in job.tasks], ())
    prefix, generation = f"{job.job_id}_", job.claim.generation if job.claim else None
    tasks = [record for job_id, record in accounting.records.items() if job_id.startswith(prefix)]
    own = [record for record in tasks if job.attempt.directory.is_of(record, generation=generation)]
    return arrays.tally([each.entry for each in job.tasks], own)


def lacks_tasks(job: SeenJob) -> bool:
    """Whether squeue has forgotten some of the tasks of an array that it knows."""
    elements = len(job.attempt.description.elements) if job.attempt else 0
    return bool(job.tasks) and sum(tasks_of(job, Accounting({})).values()) < elements


def fate_of(job: SeenJob, accounting: Accounting) -> Fate:
    """What became of a job. One that completed at a gate that was not its own has done nothing."""
    seen = _witnesses(job, accounting)
    if seen.is_live:
        return Fate.LIVE
    state, owner = judge(seen, Patience()).state, job.claim.owner if job.claim else ""
    if state is None:
        return Fate.ENDED if owner == REVOKED else Fate.NOT_KNOWN
    if not state.is_success and not seen.has_good_end:
        return Fate.ENDED
    # Where Slurm and the end line do not agree it is no success, and what it has left may be whole.
    return Fate.COMPLETED if owner in ("", job.job_id) else Fate.NONE


def _witnesses(job: SeenJob, accounting: Accounting) -> Witnesses:
    """Those of a look that has no time to wait for more of them."""
    generation, entry = job.claim.generation if job.claim else None, job.queued.entry if job.queued else None
    record = accounting.records.get(job.job_id)
    silence = Silence.NONE_KEPT if accounting.is_off else Silence.NOT_KNOWN
    attempt = job.attempt or AttemptRecord(RunDirectory("", "", job.name))
    return at_a_look(attempt, job.job_id, generation, entry, record, without_record=silence, over_seconds=math.inf)
