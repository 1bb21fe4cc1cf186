"""In which run a piece of work was first asked for, and which runs before it may have a job for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagster import DagsterEventType, DagsterInstance, DagsterRun

from dagster_slurm.pipes.dagster_private import continues_from_parent

_LONGEST_LINEAGE = 64
_RETRY_TAGS = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry", "dagster/retry_number")


@dataclass(frozen=True)
class Generation:
    """One run of a lineage, as far as one step is concerned.

    Args:
        run_id: The run.
        is_retry: Whether it goes on with what its parent left undone: from failure, or launched by the daemon.
        step_succeeded: Whether the step had succeeded in it when the run after it was created.
        is_finished: Whether nothing works on it any more.
    """

    run_id: str
    is_retry: bool
    step_succeeded: bool
    is_finished: bool


@dataclass(frozen=True)
class Origins:
    """Where to look for the job of a step.

    Args:
        own: The run in which this piece of work began.
        others: Origins of the same step in finished runs before it, the most recent first. A live job there is
            adopted; a completed one is not.
    """

    own: str
    others: tuple[str, ...] = ()


def origins(lineage: Sequence[Generation]) -> Origins:
    """The origins for a step. Pure.

    A retry continues the work of its parent, unless the step has succeeded there: the tag that marks a retry from
    failure is inherited by re-executions of all steps (dagster 1.13).

    Args:
        lineage: The run, its parent, the parent's parent, and so on.
    """
    first = _origin_index(lineage, 0)
    found = [
        lineage[_origin_index(lineage, index)].run_id
        for index in range(first + 1, len(lineage))
        if lineage[index].is_finished and not lineage[index].step_succeeded
    ]
    own = lineage[first].run_id
    return Origins(own, tuple(run_id for run_id in dict.fromkeys(found) if run_id != own))


def _origin_index(lineage: Sequence[Generation], index: int) -> int:
    while index + 1 < len(lineage) and lineage[index].is_retry and not lineage[index + 1].step_succeeded:
        index += 1
    return index


def lineage_of(instance: DagsterInstance, run: DagsterRun, step_key: str) -> list[Generation]:
    """The run and its ancestors, from Dagster's storage; one that was deleted there ends it."""
    found = [Generation(run.run_id, _is_retry(instance, run), step_succeeded=False, is_finished=False)]
    while run.parent_run_id and len(found) < _LONGEST_LINEAGE:
        parent = instance.get_run_by_id(run.parent_run_id)
        record = instance.get_run_record_by_id(run.run_id)
        if parent is None or record is None:
            break
        # A success that came later is one of a process that was taken for dead: this run was asked to do it again.
        before = record.create_timestamp.timestamp()
        run = parent
        found.append(
            Generation(
                run.run_id,
                _is_retry(instance, run),
                step_succeeded=succeeded_before(instance, run.run_id, step_key, before),
                is_finished=run.is_finished,
            )
        )
    return found


def succeeded_before(instance: DagsterInstance, run_id: str, step_key: str, moment: float) -> bool:
    """Whether a step's success was on record at a moment, in seconds since the epoch."""
    return first_events(instance, run_id, DagsterEventType.STEP_SUCCESS).get(step_key, moment) < moment


def first_events(instance: DagsterInstance, run_id: str, *kinds: DagsterEventType) -> dict[str, float]:
    """The steps of a run that have an event of one of these kinds, and the time of the first, in seconds since 1970."""
    first: dict[str, float] = {}
    for entry in instance.all_logs(run_id, of_type=set(kinds)):
        if entry.step_key is not None:
            first[entry.step_key] = min(entry.timestamp, first.get(entry.step_key, entry.timestamp))
    return first


def _is_retry(instance: DagsterInstance, run: DagsterRun) -> bool:
    if run.parent_run_id is None:
        return False
    return any(tag in run.tags for tag in _RETRY_TAGS) or continues_from_parent(instance, run)
