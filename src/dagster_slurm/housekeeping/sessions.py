"""The sessions on a cluster, and how they are ended. Pure, but for the ending."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.description import StartMark
from dagster_slurm.cluster.records import AttemptRecord
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.housekeeping.jobs_table import clock
from dagster_slurm.housekeeping.listed_jobs import Snapshot
from dagster_slurm.housekeeping.tables import Column, table
from dagster_slurm.session.leases import say
from dagster_slurm.slurm.output import UserQueueEntry


@dataclass(frozen=True)
class SessionRow:
    """A session whose allocation waits or runs.

    Args:
        title: What it is called.
        job_id: The allocation's.
        state: Slurm's state of it.
        steps_running: How many steps run in it.
        steps_waiting: How many have been asked for and have not begun.
        steps_ended: How many have ended.
        elapsed_seconds: For how long it has run.
        left_seconds: How much of its time limit is left.
        nodes: Its nodes in Slurm's compact form.
        shape: What was asked of Slurm for it.
        directory: Where it lies.
    """

    title: str
    job_id: str
    state: str
    steps_running: int = 0
    steps_waiting: int = 0
    steps_ended: int = 0
    elapsed_seconds: float | None = None
    left_seconds: float | None = None
    nodes: str = ""
    shape: str = ""
    directory: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row for programs."""
        return asdict(self)


def session_rows(seen: Snapshot) -> list[SessionRow]:
    """The sessions that there are, the oldest allocation first."""
    steps: dict[str, list[AttemptRecord]] = {}
    for attempt in (attempt for launch in seen.listing.launches for attempt in launch.attempts):
        if attempt.session is not None:
            steps.setdefault(attempt.session.relative, []).append(attempt)
    return [
        _row(job.job_id, job.attempt, job.queued, steps.get(job.attempt.directory.relative, ()))
        for job in seen.jobs
        if job.is_live and job.queued and job.attempt and job.attempt.description.session
    ]


def _row(job_id: str, allocation: AttemptRecord, queued: UserQueueEntry, mine: Sequence[AttemptRecord]) -> SessionRow:
    begun = {step.directory for step in mine if step.marks}
    over = {step.directory for step in mine for mark in step.marks if not isinstance(mark, StartMark)}
    return SessionRow(
        allocation.description.step_key,
        job_id,
        queued.entry.state.value,
        len(begun - over),
        sum(not step.marks and not step.is_closed for step in mine),
        len(over),
        queued.elapsed_seconds,
        queued.left_seconds,
        queued.entry.node_list or "",
        allocation.description.session,
        allocation.directory.path,
    )


_COLUMNS = (
    Column("SESSION", least=12),
    Column("JOBID"),
    Column("ST"),
    Column("RUNNING"),
    Column("WAITING"),
    Column("ENDED", goes=2),
    Column("TIME", goes=3),
    Column("TIME_LEFT"),
    Column("NODELIST", goes=4),
    Column("SHAPE", goes=1, least=10),
)


def lines_of(rows: Sequence[SessionRow], width: int | None = None) -> list[str]:
    """The rows as lines of text, below a heading; as wide as is needed without a width."""
    words = [
        (
            row.title,
            row.job_id,
            row.state,
            str(row.steps_running),
            str(row.steps_waiting),
            str(row.steps_ended),
            clock(row.elapsed_seconds) or "-",
            clock(row.left_seconds) or "-",
            row.nodes or "-",
            row.shape,
        )
        for row in rows
    ]
    return table(_COLUMNS, words, width)


def end_session(cluster: SlurmCluster, seen: Snapshot, named: str) -> list[SessionRow]:
    """Have a session end when nothing runs or waits in it any more; what waits in the queue for it is cancelled.

    Args:
        cluster: Where it is.
        seen: What was seen there.
        named: Its name, or the number of its allocation's job.

    Returns:
        Its allocations, the oldest first: one may be queued to follow another one.

    Raises:
        InvalidRequestError: There is none of that name, or it stands for several sessions.
        TransportError: The cluster could not be reached.
    """
    rows = session_rows(seen)
    found = [row for row in rows if named in (row.job_id, row.title, row.title.partition("'")[2].rstrip("'"))]
    if len({row.directory.rpartition("/")[0] for row in found}) != 1:
        raise InvalidRequestError(
            f"There is no session {named!r}" if not found else f"Several sessions are called {named!r}",
            hint=f"There are: {', '.join(f'{row.title} (job {row.job_id})' for row in rows) or 'none'}.",
        )
    attempts = {job.job_id: job.attempt for job in seen.jobs if job.attempt}
    for row in found:
        say(cluster.transport, attempts[row.job_id].directory, "end")
    cluster.cancel([row.job_id for row in found], only_pending=True)
    return found
