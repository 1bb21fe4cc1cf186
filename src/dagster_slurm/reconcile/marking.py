"""Ends a run whose processes are gone, in Dagster's records. No job is touched."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from dagster import DagsterError, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from dagster_slurm.pipes.dagster_private import free_pool_slots, mark_failed, mark_succeeded, steps_left
from dagster_slurm.reconcile.decision import IN_PROGRESS, Ending, ending_of

RETRY_PENDING_TAG = "dagster-slurm/retry_pending"
"""On a run that was marked failed and is to be retried: its own id. On a copy of its tags that id is another's."""
_MADE = "no"


def ending_ahead(instance: DagsterInstance, run: DagsterRun) -> Ending:
    """How the run would be marked."""
    left = None
    with suppress(DagsterError):  # an ancestor or a snapshot was deleted: it is not known, and said when it is retried
        left = steps_left(instance, run)
    return ending_of(run.status, left)


def mark(instance: DagsterInstance, run: DagsterRun, why: str, *, retry_follows: bool) -> Ending | None:
    """Mark an orphaned run; None if somebody else has ended it meanwhile.

    Two who do this at the same instant may both write their line. That changes nothing: both mark the same, and only
    one retry can be recorded, see `start.retry_run_id`.
    """
    now = instance.get_run_by_id(run.run_id)
    if now is None or now.status not in IN_PROGRESS:
        return None
    ending = ending_ahead(instance, now)
    if ending is Ending.CANCELED:
        instance.report_run_canceled(now, _CANCELED.format(why=why))
    elif ending is Ending.SUCCEEDED:
        mark_succeeded(instance, now, _SUCCEEDED.format(why=why))
    else:
        if retry_follows:
            # Before the run has ended: whoever dies in between leaves behind what the next one finishes.
            instance.add_run_tags(now.run_id, {RETRY_PENDING_TAG: now.run_id})
        mark_failed(instance, now, _FAILED.format(why=why))
    free_pool_slots(instance, now.run_id)
    return ending


def is_pending(run: DagsterRun) -> bool:
    """Whether the run was marked failed and its retry has not been made."""
    return run.status is DagsterRunStatus.FAILURE and run.tags.get(RETRY_PENDING_TAG) == run.run_id


def pending_runs(instance: DagsterInstance) -> Iterable[DagsterRun]:
    """The runs of which that is true."""
    ids = [value for _, values in instance.get_run_tags([RETRY_PENDING_TAG]) for value in values if value != _MADE]
    if not ids:
        return []
    return filter(is_pending, instance.get_runs(RunsFilter(run_ids=ids, statuses=[DagsterRunStatus.FAILURE])))


def note_retry_made(instance: DagsterInstance, run: DagsterRun) -> None:
    """Take back the mark that the run is to be retried, if it has one."""
    if RETRY_PENDING_TAG in run.tags:
        instance.add_run_tags(run.run_id, {RETRY_PENDING_TAG: _MADE})


_CANCELED = (
    "The processes of this run have died ({why}) after its cancellation was asked for and before they could cancel "
    "anything. The run is canceled now; its Slurm jobs were NOT cancelled by this, since a run is also terminated by "
    "hand because its process is dead. The tag slurm/job_id names the jobs; on the cluster `squeue --me` lists those "
    "that are left, and `scancel JOBID` cancels one."
)
_SUCCEEDED = (
    "The processes of this run have died ({why}) when every step had succeeded and only this was not recorded yet. "
    "Nothing is left to execute: the run has succeeded."
)
_FAILED = (
    "The processes of this run have died ({why}). It is marked failed, so that it can be executed again from the point "
    "of failure. Its Slurm jobs were left alone: a retry takes up what is queued or running, and collects what is done."
)
