"""The table of `dagster-slurm jobs`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

from dagster_slurm.cluster.description import Description, StartMark
from dagster_slurm.housekeeping.listed_jobs import (
    Accounting,
    Piece,
    SeenJob,
    Snapshot,
    end_of,
    lacks_tasks,
    pieces_of,
    record_of,
    tasks_of,
)
from dagster_slurm.housekeeping.tables import Column, table
from dagster_slurm.slurm.output import AccountingRecord, UserQueueEntry
from dagster_slurm.slurm.states import JobState


class RunStanding(Enum):
    """What Dagster's records say of a piece of work."""

    UNKNOWN = "its run is not known there"
    IN_PROGRESS = "a run of it is in progress"
    OVER = "its runs have ended, and its step has not succeeded"
    SUCCEEDED = "its step has succeeded, so that its result was collected"


@dataclass(frozen=True)
class Word:
    """What Dagster says.

    Args:
        standing: How the piece of work stands there.
        run_id: The newest run that works, or has worked, on it.
        status: That run's status; empty for an unknown one.
        over_seconds: How long ago the last of its runs ended; None if that is not known.
    """

    standing: RunStanding
    run_id: str = ""
    status: str = ""
    over_seconds: float | None = None


WordOf = Callable[[Sequence[str], str], Word]
"""Asks it, for the runs in which the work was asked for and its step."""


def unknown(origin_run_ids: Sequence[str], step_key: str) -> Word:
    """What Dagster says of a piece of work in runs that it does not know."""
    return Word(RunStanding.UNKNOWN, origin_run_ids[0] if origin_run_ids else "")


@dataclass(frozen=True)
class JobRow:
    """A job, as it is shown. What is not known is empty, or None.

    Args:
        job_id: Slurm's id.
        run_id: The run that works on it, or has worked on it last.
        run_status: That run's status in Dagster.
        asset: The asset, or several with commas between; the step, if it is of no asset.
        partition_keys: Dagster's partition keys.
        partition: Slurm's partition.
        state: Slurm's state of the job; `ENDED` if only the job itself tells that it has ended.
        tasks: Of an array, how many tasks are in which state.
        reason: Why it waits.
        nodes: Its nodes in Slurm's compact form.
        elapsed_seconds: For how long it has run.
        left_seconds: How much of its time limit is left.
        limit_seconds: The time limit it asks for.
        node_count: How many nodes it has, or asks for.
        cpus: How many CPUs in all.
        memory: The memory it asks for, of a node or of a CPU.
        tres: What else it asks for of each node, such as GPUs.
        name: Slurm's name of it.
        directory: Its run directory; empty if that is gone.
    """

    job_id: str
    run_id: str = ""
    run_status: str = ""
    asset: str = ""
    partition_keys: tuple[str, ...] = ()
    partition: str = ""
    state: str = ""
    tasks: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    nodes: str = ""
    elapsed_seconds: float | None = None
    left_seconds: float | None = None
    limit_seconds: float | None = None
    node_count: int | None = None
    cpus: int | None = None
    memory: str = ""
    tres: str = ""
    name: str = ""
    directory: str = ""

    @property
    def states(self) -> frozenset[str]:
        """Its state, or those of its tasks."""
        return frozenset(self.tasks or [self.state])

    def as_json(self) -> dict[str, Any]:
        """The row for programs."""
        return {**asdict(self), "partition_key": ",".join(self.partition_keys)}


@dataclass(frozen=True)
class Wanted:
    """Which jobs are shown.

    Args:
        everything: Whether also those that squeue does not know.
        of_run: How the id of their run begins: of the one that works on a job, or of one that has asked for it.
        states: In which states they, or tasks of them, are; empty for any.
    """

    everything: bool = False
    of_run: str = ""
    states: frozenset[str] = frozenset()

    def is_open(self, job: SeenJob) -> bool:
        """Whether sacct has to be asked about a job."""
        return self.everything if job.queued is None else lacks_tasks(job)


@dataclass(frozen=True)
class Shown:
    """A job that is shown.

    Args:
        job: The job.
        row: What is shown of it.
        run_ids: The run that works on it, and those that have asked for it.
    """

    job: SeenJob
    row: JobRow
    run_ids: tuple[str, ...]


def job_rows(seen: Snapshot, word_of: WordOf, wanted: Wanted) -> list[JobRow]:
    """The rows of what is shown."""
    return [each.row for each in shown(seen, word_of, wanted)]


def shown(seen: Snapshot, word_of: WordOf, wanted: Wanted) -> list[Shown]:
    """What is shown. Pure, but for what `word_of` asks.

    Args:
        seen: What was seen.
        word_of: Tells what Dagster says of origin runs and step.
        wanted: Which jobs are shown.
    """
    pieces = {attempt.directory: piece for piece in pieces_of(seen.listing) for attempt in piece.attempts}
    found = []
    for job in seen.jobs:
        if job.queued is None and not wanted.everything:
            continue
        piece = pieces.get(job.attempt.directory) if job.attempt else None
        asked_by, step_key = _asked(job, piece)
        word = word_of(asked_by, step_key) if asked_by else None
        run_id, status = (word.run_id, word.status) if word and word.status else ("", "")
        row = job_row(job, seen.accounting, run_id=run_id, run_status=status)
        run_ids = (row.run_id, *asked_by)
        is_of_run = any(each.startswith(wanted.of_run) for each in run_ids)
        if is_of_run and (not wanted.states or row.states & wanted.states):
            found.append(Shown(job, row, run_ids))
    return found


def _asked(job: SeenJob, piece: Piece | None) -> tuple[Sequence[str], str]:
    """In which runs a job was asked for, and by which step; where its directory is gone, as far as its path tells."""
    if piece is not None:
        return piece.origin_run_ids, piece.description.step_key
    return ((job.place.run,) if job.place else ()), job.step_of_name


def job_row(job: SeenJob, accounting: Accounting, *, run_id: str, run_status: str) -> JobRow:
    """What is shown of a job: squeue's word first, then sacct's, then its own."""
    told = job.attempt.description if job.attempt else Description()
    row = JobRow(
        job.job_id,
        run_id or told.run_id or told.origin_run_id or (job.place.run if job.place else ""),
        run_status,
        ",".join(told.assets) or told.step_key or job.step_of_name,
        told.partition_keys,
        state=_own_state(job),
        tasks={state.value: count for state, count in tasks_of(job, accounting).items()},
        nodes=_own_nodes(job),
        elapsed_seconds=_own_elapsed(job),
        name=job.name,
        directory=job.attempt.directory.path if job.attempt else "",
    )
    record = record_of(job, accounting)
    row = row if record is None else _accounted(row, record)
    if job.is_step:
        return _of_step(replace(row, job_id=job.accounted_as or job.job_id), job)
    if job.queued is None:
        return row
    row = _queued(row, job.queued, job.tasks or job.components)
    return _of_components(row, job.components) if job.components else row


def _of_step(row: JobRow, job: SeenJob) -> JobRow:
    """Of a step of a session, whose allocation is what squeue knows: sizes and times are not the step's."""
    if job.queued is None:
        return row
    entry = job.queued.entry
    state = entry.state if job.marks or entry.state is not JobState.RUNNING else JobState.PENDING
    reason = entry.reason if state is entry.state else f"in the session of job {entry.job_id}"
    return replace(row, partition=job.queued.partition, state=state.value, reason=reason or "")


def _accounted(row: JobRow, record: AccountingRecord) -> JobRow:
    return replace(
        row,
        state=record.state.value,
        nodes=record.node_list or row.nodes,
        elapsed_seconds=record.elapsed_seconds,
        node_count=record.node_count,
        cpus=record.cpus,
        # Until 21.08 with a letter for what it is of (sacct(1), ReqMem).
        memory=(record.req_mem or "").rstrip("nc"),
    )


def _queued(row: JobRow, queued: UserQueueEntry, tasks: Sequence[UserQueueEntry]) -> JobRow:
    entry = queued.entry
    nodes = dict.fromkeys(each.entry.node_list for each in (tasks or [queued]) if not each.entry.state.is_terminal)
    return replace(
        row,
        partition=queued.partition,
        state=entry.state.value,
        reason=entry.reason or "",
        nodes=",".join(filter(None, nodes)) or entry.node_list or "",
        elapsed_seconds=queued.elapsed_seconds,
        left_seconds=queued.left_seconds,
        limit_seconds=queued.limit_seconds,
        node_count=queued.nodes,
        cpus=queued.cpus,
        memory=queued.memory or "",
        tres=queued.tres or "",
    )


def _of_components(row: JobRow, components: Sequence[UserQueueEntry]) -> JobRow:
    """What all of them have together; of memory and the like each has its own."""
    nodes, cpus = (
        [getattr(each, name) for each in components if getattr(each, name) is not None] for name in ("nodes", "cpus")
    )
    return replace(row, node_count=sum(nodes), cpus=sum(cpus), memory="", tres="")


# In squeue's words (squeue(1), --format), and Dagster's.
_COLUMNS = (
    Column("JOBID"),
    Column("RUN", goes=2),
    Column("RUN_STATUS", goes=6),
    Column("ASSET", least=8),
    Column("KEY", goes=1, least=13),
    Column("PARTITION", goes=9),
    Column("ST"),
    Column("TIME", goes=5),
    Column("TIME_LEFT"),
    Column("TIME_LIMIT", goes=10),
    Column("NODES", goes=7),
    Column("CPUS", goes=3),
    Column("MIN_MEMORY", goes=4),
    Column("TRES_PER_NODE", goes=8),
    Column("NODELIST(REASON)", least=10),
)


def lines_of(rows: Iterable[JobRow], width: int | None = None) -> list[str]:
    """The rows as lines of text, below a heading; as wide as is needed without a width."""
    return table(_COLUMNS, [_words(row, is_whole=width is None) for row in rows], width)


def _words(row: JobRow, *, is_whole: bool) -> tuple[str, ...]:
    # A dash for what is not known: columns stay columns for `awk`.
    words = (
        row.job_id,
        _short(row.run_id),
        row.run_status,
        row.asset,
        ",".join(row.partition_keys) if is_whole else _first_of(row.partition_keys),
        row.partition,
        _states(row).replace(" ", "" if is_whole else " "),
        clock(row.elapsed_seconds),
        clock(row.left_seconds),
        clock(row.limit_seconds),
        _count(row.node_count),
        _count(row.cpus),
        row.memory,
        row.tres,
        row.nodes or (f"({row.reason})" if row.reason else ""),
    )
    return tuple(word or "-" for word in words)


def _states(row: JobRow) -> str:
    """`R`, or `4 R, 7 PD, 1 F` for an array."""
    return ", ".join(f"{count} {_code(state)}" for state, count in row.tasks.items()) or _code(row.state)


def _code(state: str) -> str:
    """As squeue writes it in short; some states have no short form."""
    return (JobState(state).code or state) if state in _STATES else state


_STATES = frozenset(state.value for state in JobState)


def _first_of(keys: Sequence[str]) -> str:
    """The first of several, and how many more there are."""
    return keys[0] + (f"+{len(keys) - 1}" if len(keys) > 1 else "") if keys else ""


def _short(run_id: str) -> str:
    """As the UI shows ids; what is run without Dagster has none that is worth showing."""
    return run_id.partition("-")[0]


def _count(number: int | None) -> str:
    return "" if number is None else str(number)


def clock(seconds: float | None) -> str:
    """A time as squeue writes it: `0:05`, `2:14:09`, `1-03:22:51`."""
    if seconds is None:
        return ""
    days, rest = divmod(int(seconds), 86400)
    hours, minutes = rest // 3600, f"{rest % 3600 // 60:02d}:{rest % 60:02d}"
    if days:
        return f"{days}-{hours:02d}:{minutes}"
    return f"{hours}:{minutes}" if hours else minutes.removeprefix("0")


def _own_state(job: SeenJob) -> str:
    return "ENDED" if end_of(job) else ""


def _own_nodes(job: SeenJob) -> str:
    return next((mark.nodes for mark in reversed(job.marks) if isinstance(mark, StartMark)), "")


def _own_elapsed(job: SeenJob) -> float | None:
    end = end_of(job)
    starts = [mark for mark in job.marks if isinstance(mark, StartMark) and end and mark.restart == end.restart]
    return end.at_epoch_seconds - starts[-1].at_epoch_seconds if end and starts else None
