"""How a job stands that another process has submitted: it goes on, it has completed, or it ended otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from dagster_slurm.cluster import FilePosition, SlurmCluster
from dagster_slurm.cluster.status_file import EndMark, parse_marks
from dagster_slurm.errors import SlurmCommandError, SubmissionUnknownError
from dagster_slurm.job.handle import JobHandle
from dagster_slurm.job.lifecycle import Absence, Action, Observation, Patience, decide
from dagster_slurm.job.pace import Pace
from dagster_slurm.job.retrying import Outcome
from dagster_slurm.slurm.output import AccountingRecord
from dagster_slurm.slurm.states import JobState

_MAX_STATUS_BYTES = 1 << 20


class Standing(Enum):
    """What a retry has to know of a job."""

    LIVE = "pending, running, suspended, requeued or completing"
    COMPLETED = "it ended with success"
    ENDED = "it ended without success, or was never there"


@dataclass(frozen=True)
class Stand:
    """How a job stands and, if it has ended without success, how."""

    standing: Standing
    outcome: Outcome | None = None


def standing_of(
    cluster: SlurmCluster,
    handle: JobHandle,
    *,
    patience: Patience,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Stand:
    """Ask the witnesses until they tell how a job stands. May be repeated at any time.

    Args:
        cluster: The cluster.
        handle: The job.
        patience: How long to wait for what they do not tell at once.
        now: The clock, in seconds.
        sleep: Waits for some seconds.

    Raises:
        SlurmUnavailableError: Slurm does not answer; nothing follows from that.
        SubmissionUnknownError: The job has left the queue, and no witness tells how it ended.
    """
    begun, pace = now(), Pace(0.2, 10.0, 1.6)
    while True:
        entry = cluster.queue([handle.job_id]).get(handle.job_id)
        if entry is not None and not entry.state.is_terminal:
            return Stand(Standing.LIVE)
        seen, record = _observe(cluster, handle, entry.state if entry else Absence.GONE, now() - begun)
        decision = decide(seen, patience)
        if decision.action is Action.FINISH and decision.state is not None:
            if decision.state.is_success:
                return Stand(Standing.COMPLETED)
            return Stand(Standing.ENDED, outcome_of(decision.state, seen.end_mark, record))
        if seen.ended_state is None and seen.end_mark is not None and seen.end_mark.exit_code == 0:
            # Whoever follows it from here waits for the witness of the end.
            return Stand(Standing.COMPLETED)
        if decision.action is Action.GIVE_UP:
            raise unknown_end(handle, cluster.host)
        pace.asked(now())
        sleep(max(0.0, pace.due - now()))


def unknown_end(handle: JobHandle, host: str) -> SubmissionUnknownError:
    """The error for a job of which no witness tells how it ended."""
    return SubmissionUnknownError(
        "The job has left the queue, and no witness tells how it ended",
        hint=f"Look at {handle.directory.path}/log, and ask the site whether accounting is kept.",
        host=host,
        job_id=handle.job_id,
    )


def outcome_of(state: JobState, end_mark: EndMark | None, record: AccountingRecord | None) -> Outcome:
    """How a job ended, as the next attempt has to know it."""
    # The end line is exact where Slurm is not (see `job_failure`).
    exit_code = end_mark.exit_code if end_mark else (record.exit_code if record else None)
    return Outcome(state, exit_code, record.node_list if record else None)


def _observe(
    cluster: SlurmCluster, handle: JobHandle, queue: JobState | Absence, seconds: float
) -> tuple[Observation, AccountingRecord | None]:
    name = handle.directory.log_name("status")
    text = cluster.read_new([FilePosition(name, 0)], max_bytes=_MAX_STATUS_BYTES).get(name, b"")
    marks, _ = parse_marks(text.decode("utf-8", "replace"))
    mine = [mark for mark in marks if mark.job_id == handle.job_id]
    end_mark = mine[-1] if mine and isinstance(mine[-1], EndMark) else None
    try:
        records = cluster.accounting([handle.job_id])
    except SlurmCommandError as error:
        if not error.is_missing_program:
            raise
        records = None
    record = (records or {}).get(handle.job_id)
    seen = Observation(
        end_mark=end_mark,
        queue=queue,
        accounting=record.state if record else Absence.NOT_KNOWN,
        over_seconds=seconds,
        accounting_off=records is None,
    )
    return seen, record
