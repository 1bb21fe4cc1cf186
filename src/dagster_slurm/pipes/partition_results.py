"""What the partitions of a step bring, and what of it is on record already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagster import AssetCheckResult, AssetKey, Failure, MaterializeResult

from dagster_slurm.errors import DagsterSlurmError, InvalidRequestError
from dagster_slurm.pipes.dagster_private import already_materialized, materializations
from dagster_slurm.pipes.data import data_metadata
from dagster_slurm.pipes.lineage import lineage_of
from dagster_slurm.pipes.session import UnitSession
from dagster_slurm.pipes.step import Step
from dagster_slurm.staging.collect import Collected
from dagster_slurm.staging.remote_path import RemotePath

CALL_METADATA = "slurm_call"
_MOST_NAMED = 20


@dataclass(frozen=True)
class PartitionResult:
    """What one partition brought.

    Attributes:
        job_id: The task of the array ("123_7"); empty where it ran on this machine.
        metadata: What its materialisation carries.
        custom_messages: What the payload reported besides.
        check_results: Asset checks that the payload has reported. They are not on record yet: yield them, or one that
            sums them up.
        outputs: Files that were fetched to this machine.
        kept: What stays on the cluster, by its name in the working directory.
    """

    job_id: str
    metadata: Mapping[str, Any]
    custom_messages: Sequence[Any] = ()
    check_results: Sequence[AssetCheckResult] = ()
    outputs: Sequence[Path] = ()
    kept: Mapping[str, RemotePath] = field(default_factory=dict)


class Recorder:
    """Puts the results of partitions on record, each once.

    Args:
        step: The step.
        name: The call's name, if it has one.
        done: Which assets are on record for a partition.
    """

    def __init__(self, step: Step, name: str | None, done: Mapping[str, set[AssetKey]]) -> None:
        self._events = step.pipes.events()
        self._call = {} if name is None else {CALL_METADATA: name}
        self._done = done
        self.results: dict[str, PartitionResult] = {}

    def record(
        self, partition: str, session: UnitSession, metadata: Mapping[str, Any], *, job_id: str, collected: Collected
    ) -> None:
        """Record a partition's materialisations, but for the assets whose are on record already."""
        made = session.materialized({**metadata, **data_metadata(collected), **self._call})
        for asset_key, result in made.items():
            if asset_key not in self._done.get(partition, ()):
                self._events.materialize(asset_key, partition, result)
        shown = {name: value for result in made.values() for name, value in (result.metadata or {}).items()}
        messages = list(session.pipes.get_custom_messages())
        self.results[partition] = PartitionResult(
            job_id, shown, messages, session.checks(), collected.outputs, collected.kept
        )


class SlurmPartitionsInvocation:
    """The end of `compute.run_partitions`: every partition is on record.

    Attributes:
        partitions: What this call has recorded, by partition key. What an earlier attempt has recorded is not in it.
    """

    def __init__(self, step: Step, results: Mapping[str, PartitionResult]) -> None:
        self._step = step
        self.partitions: Mapping[str, PartitionResult] = dict(results)

    def get_results(self) -> Sequence[MaterializeResult[Any]]:
        """What the asset's function yields or returns: nothing of it is recorded again, and steps after it go on."""
        return [already_materialized(key) for key in self._step.asset_keys]

    def get_materialize_result(self) -> MaterializeResult[Any]:
        """The same, for a step of one asset.

        Raises:
            InvalidRequestError: The step has several.
        """
        results = self.get_results()
        if len(results) != 1:
            raise InvalidRequestError(
                f"The step has {len(results)} assets", hint="Yield each of `get_results()` in place of one result."
            )
        return results[0]


def partitions_of(step: Step) -> Sequence[str]:
    """The step's partitions, in their order.

    Raises:
        InvalidRequestError: It has none, or is called directly and not in a run.
    """
    if step.run is None or not step.is_asset or step.partition_keys is None:
        raise InvalidRequestError(
            "run_partitions is for a partitioned asset in a run that has partitions",
            hint="Give the asset partitions_def and backfill_policy=BackfillPolicy.single_run(), or use `run`.",
        )
    step.pipes.expect_results(
        "Return what `run_partitions(...)` gives: `.get_materialize_result()`, or yield `.get_results()`."
    )
    return step.partition_keys


def recorded(step: Step, origin_run_id: str, name: str | None) -> dict[str, set[AssetKey]]:
    """Which assets this run, and those that it retries, have on record for each partition.

    Args:
        step: The step.
        origin_run_id: The run in which the piece of work began.
        name: The call's name, if it has one.
    """
    found: dict[str, set[AssetKey]] = {}
    if step.run is None:
        return found
    for generation in lineage_of(step.instance, step.run, step.key):
        for made in materializations(step.instance, generation.run_id):
            is_of_call = made.step_key == step.key and made.metadata.get(CALL_METADATA) == name
            if is_of_call and made.partition is not None:
                found.setdefault(made.partition, set()).add(made.asset_key)
        if generation.run_id == origin_run_id:
            break
    return found


def partitions_failure(failed: Mapping[str, DagsterSlurmError], total: int) -> Failure:
    """Dagster's failure for a step of which some partitions have failed, in whatever order they ended."""
    ordered = sorted(failed)
    named = ordered[:_MOST_NAMED]
    more = f" and {len(failed) - len(named)} more" if len(failed) > len(named) else ""
    first = failed[named[0]]
    raised = Failure(
        f"{len(failed)} of {total} partitions failed: {', '.join(named)}{more}. The others are materialised; a retry "
        f"submits only these.\nPartition {named[0]}: {first}",
        metadata={
            "slurm_failed_partitions": ordered,
            "slurm_end": sorted({type(error).__name__ for error in failed.values()}),
        },
    )
    raised.__cause__ = first
    return raised
