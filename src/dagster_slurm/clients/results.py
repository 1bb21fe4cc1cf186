"""What a call gives back, or raises, when its units have ended: the one, or each of many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dagster import AssetKey

from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.job.handle import ONE
from dagster_slurm.pipes.partition_results import (
    Recorder,
    SlurmCompletedInvocation,
    SlurmPartitionsInvocation,
    failure,
    partitions_failure,
    partitions_of,
)
from dagster_slurm.pipes.session import UnitSession
from dagster_slurm.pipes.step import Step
from dagster_slurm.work.carriers import UnitEnd
from dagster_slurm.work.loop import Report

Failures = Mapping[str, tuple[DagsterSlurmError, UnitEnd]]
Follow = Callable[[Sequence[str], Report], Failures]
"""Brings units to their ends, and reports those that succeed."""
MetadataOf = Callable[[UnitEnd], Mapping[str, Any]]


def run_one(step: Step, follow: Follow, metadata_of: MetadataOf) -> SlurmCompletedInvocation:
    """A call without partitions.

    Raises:
        Failure: It has failed.
    """
    if step.is_asset:
        step.pipes.expect_results(
            "Return what `run(...)` gives: `.get_materialize_result()`, or yield `.get_results()`."
        )
    brought: list[tuple[UnitEnd, UnitSession]] = []
    for error, end in follow((ONE,), lambda end, session: brought.append((end, session))).values():
        raise failure(error, metadata_of(end))
    ((end, session),) = brought
    return SlurmCompletedInvocation(session.pipes, end.collected, metadata_of(end))


def run_each(
    step: Step, name: str | None, done: Mapping[str, set[AssetKey]], follow: Follow, metadata_of: MetadataOf
) -> SlurmPartitionsInvocation:
    """A call for each partition of the run.

    Args:
        step: The step.
        name: The call's name, if it has one.
        done: Which assets are on record for a partition.
        follow: Brings those that are not to their ends.
        metadata_of: What the end of one adds to its metadata.

    Raises:
        Failure: Partitions have failed; the others are materialised.
    """
    partitions, recorder = partitions_of(step), Recorder(step, name, done)
    left = [each for each in partitions if not set(step.asset_keys) <= done.get(each, set())]

    def record(end: UnitEnd, session: UnitSession) -> None:
        recorder.record(end.unit, session, metadata_of(end), job_id=end.handle.job_id, collected=end.collected)

    failed = follow(left, record)
    if failed:
        raise partitions_failure({unit: error for unit, (error, _) in failed.items()}, len(partitions))
    return SlurmPartitionsInvocation(step, recorder.results)
