"""The table of `dagster-slurm jobs`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from dagster_slurm.cluster.description import Description, StartMark
from dagster_slurm.housekeeping.seen import Accounting, SeenJob, Survey, end_of, pieces_of, record_of


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
        partition_key: The partition key, or several with commas between.
        partition: Slurm's partition.
        state: Slurm's state of the job; `ENDED` if only the job itself tells that it has ended.
        reason: Why it waits.
        nodes: Its nodes in Slurm's compact form.
        elapsed_seconds: For how long it has run.
        name: Slurm's name of it.
        directory: Its run directory; empty if that is gone.
    """

    job_id: str
    run_id: str = ""
    run_status: str = ""
    asset: str = ""
    partition_key: str = ""
    partition: str = ""
    state: str = ""
    reason: str = ""
    nodes: str = ""
    elapsed_seconds: float | None = None
    name: str = ""
    directory: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row for programs."""
        return asdict(self)


def job_rows(seen: Survey, word_of: WordOf, *, everything: bool, of_run: str = "") -> list[JobRow]:
    """What is shown. Pure, but for what `word_of` asks.

    Args:
        seen: What was seen.
        word_of: Tells what Dagster says of origin runs and step.
        everything: Whether jobs are shown that squeue does not know.
        of_run: How the id of their run begins: of the one that works on a job, or of one that has asked for it.
    """
    pieces = {attempt.directory: piece for piece in pieces_of(seen.listing) for attempt in piece.attempts}
    rows = []
    for job in seen.jobs:
        if job.queued is None and not everything:
            continue
        piece = pieces.get(job.attempt.directory) if job.attempt else None
        word = word_of(piece.origin_run_ids, piece.description.step_key) if piece else None
        run_id, status = (word.run_id, word.status) if word and word.status else ("", "")
        row = job_row(job, seen.accounting, run_id=run_id, run_status=status)
        asked_by = piece.origin_run_ids if piece else ()
        if any(each.startswith(of_run) for each in (row.run_id, *asked_by)):
            rows.append(row)
    return rows


def job_row(job: SeenJob, accounting: Accounting, *, run_id: str, run_status: str) -> JobRow:
    """What is shown of a job: squeue's word first, then sacct's, then its own."""
    told = job.attempt.description if job.attempt else Description()
    queued, record = job.queued, record_of(job, accounting)
    partition, state, reason, nodes, elapsed = "", _own_state(job), "", _own_nodes(job), _own_elapsed(job)
    if record is not None:
        state, nodes, elapsed = record.state.value, record.node_list or nodes, record.elapsed_seconds
    if queued is not None:
        entry, partition, elapsed = queued.entry, queued.partition, queued.elapsed_seconds
        state, reason, nodes = entry.state.value, entry.reason or "", entry.node_list or ""
    return JobRow(
        job.job_id,
        run_id or told.run_id or told.origin_run_id,
        run_status,
        ",".join(told.assets) or told.step_key or job.step_of_name,
        ",".join(told.partition_keys),
        partition,
        state,
        reason,
        nodes,
        elapsed,
        job.name,
        job.attempt.directory.path if job.attempt else "",
    )


def table(rows: Iterable[JobRow]) -> list[str]:
    """The rows as lines of text, below a heading."""
    return aligned([_HEADING, *(_words(row) for row in rows)])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of words as lines, each column as wide as it has to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


_HEADING = (
    "JOBID",
    "RUN",
    "RUN_STATUS",
    "ASSET",
    "PARTITION_KEY",
    "PARTITION",
    "STATE",
    "REASON",
    "NODELIST",
    "ELAPSED",
)


def _words(row: JobRow) -> tuple[str, ...]:
    # A dash for what is not known: columns stay columns for `awk`.
    words = (
        row.job_id,
        _short(row.run_id),
        row.run_status,
        row.asset,
        row.partition_key,
        row.partition,
        row.state,
        row.reason,
        row.nodes,
        _clock(row.elapsed_seconds),
    )
    return tuple(word.replace(" ", "_") or "-" for word in words)


def _short(run_id: str) -> str:
    """As the UI shows ids; what is run without Dagster has none that is worth showing."""
    return run_id.partition("-")[0]


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    days, rest = divmod(int(seconds), 86400)
    clock = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def _own_state(job: SeenJob) -> str:
    return "ENDED" if end_of(job) else ""


def _own_nodes(job: SeenJob) -> str:
    return next((mark.nodes for mark in reversed(job.marks) if isinstance(mark, StartMark)), "")


def _own_elapsed(job: SeenJob) -> float | None:
    end = end_of(job)
    starts = [mark for mark in job.marks if isinstance(mark, StartMark) and end and mark.restart == end.restart]
    return end.at_epoch_seconds - starts[-1].at_epoch_seconds if end and starts else None
