"""Runs whose processes have died, as code for dagster-slurm 1.22 asks for them: as requests for runs that go on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from dagster_slurm.pipes.launch_key import CONTINUES_TAG
from dagster_slurm.reconcile.decision import Verdict
from dagster_slurm.reconcile.runs import Plan, reconciled_runs
from dagster_slurm.resources.slurm import SlurmResource

# Dagster's own tags are of the run that has ended, but for the partitions that it was of.
_PARTITION = "dagster/partition"
_OF_PARTITIONS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
_IMPLICIT = "__"


def run_requests(
    instance: DagsterInstance,
    slurm_resource: SlurmResource,
    *,
    stale_after_seconds: float = 120.0,
    limit: int = 50,
    now: datetime | None = None,
) -> list[RunRequest]:
    """Mark runs failed whose processes have died, and request runs that go on with their jobs.

    Args:
        instance: Where the runs are.
        slurm_resource: Not needed: the runs themselves tell.
        stale_after_seconds: Leave runs alone of which Dagster recorded something in the last so many seconds.
        limit: How many runs to mark at most.
        now: Not needed: a run is judged by its process, and not by a clock alone.

    Returns:
        A request for each run that was marked failed; none where the daemon's `run_retries` finish it.
    """
    del slurm_resource, now
    return [_request(run) for run in _failed(instance, stale_after_seconds, limit)]


def _failed(instance: DagsterInstance, stale_after_seconds: float, limit: int) -> list[DagsterRun]:
    plan = Plan(retry=False, retry_later=instance.run_retries_enabled, older_than_seconds=stale_after_seconds)
    marked: list[DagsterRun] = []
    for found in reconciled_runs(instance, plan):
        run = instance.get_run_by_id(found.run_id) if found.verdict is Verdict.ORPHANED else None
        if run is not None and run.status is DagsterRunStatus.FAILURE:
            marked.append(run)
        if len(marked) >= limit:
            break
    return [] if instance.run_retries_enabled else marked


def _request(run: DagsterRun) -> RunRequest:
    own = {name: value for name, value in run.tags.items() if not name.startswith(("dagster/", ".dagster/"))}
    ranges = {name: run.tags[name] for name in _OF_PARTITIONS if name in run.tags}
    return RunRequest(
        run_key=f"slurm-orphan-{run.run_id}",
        run_config=run.run_config,
        tags={**own, **ranges, CONTINUES_TAG: run.run_id},
        job_name=None if run.job_name.startswith(_IMPLICIT) else run.job_name,
        asset_selection=sorted(run.asset_selection) if run.asset_selection else None,
        partition_key=run.tags.get(_PARTITION),
    )


def sensor_of_requests(
    slurm_resource: SlurmResource,
    *,
    name: str = "slurm_orphan_reconcile_sensor",
    jobs: Sequence[Any] | None = None,
    target: Any = None,
    stale_after_seconds: float = 120.0,
    limit: int = 50,
    minimum_interval_seconds: int = 30,
    default_status: DefaultSensorStatus = DefaultSensorStatus.STOPPED,
) -> SensorDefinition:
    """A sensor that does the same each time that it is evaluated.

    Args:
        slurm_resource: As for `run_requests`.
        name: The sensor's name, unique in the code location.
        jobs: The jobs that it may request runs of.
        target: The assets or jobs, in place of `jobs`. Without either, runs are marked and none is requested.
        stale_after_seconds: As for `run_requests`.
        limit: As for `run_requests`.
        minimum_interval_seconds: How often to look, at most.
        default_status: Stopped, unless somebody starts it.
    """

    @sensor(
        name=name,
        jobs=jobs,
        target=target,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description="Requests runs that go on with the Slurm jobs of runs whose processes have died.",
    )
    def reconcile(context: SensorEvaluationContext) -> SensorResult | SkipReason:
        found = run_requests(context.instance, slurm_resource, stale_after_seconds=stale_after_seconds, limit=limit)
        if not found or (jobs is None and target is None):
            return SkipReason(f"Runs that have lost their processes, and were marked: {len(found)}.")
        return SensorResult(run_requests=found)

    return reconcile
