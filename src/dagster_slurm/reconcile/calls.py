"""What users call: runs whose processes have died are looked for at once, or by a sensor; as here, or as in 1.22."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any, TypeVar, cast

from dagster import DagsterInstance, DefaultSensorStatus, SensorDefinition, SensorEvaluationContext, SkipReason, sensor

from dagster_slurm.pipes.dagster_runs import instance_of_environment
from dagster_slurm.reconcile.decision import ReconciledRun, Verdict
from dagster_slurm.reconcile.runs import Plan, reconciled_runs
from dagster_slurm.reconcile.start import Code
from dagster_slurm.resources.slurm import SlurmResource

Function = TypeVar("Function", bound=Callable[..., Any])

_TOLD = (Verdict.ORPHANED, Verdict.CANCELLING)
_HOW_TO_FINISH = (
    "Nothing retries them: set `run_retries: {enabled: true, max_retries: 3}` in dagster.yaml, "
    "or run `dagster-slurm reconcile`."
)


def _or_as_1_22(former: str) -> Callable[[Function], Function]:
    """Let a function be called with a `SlurmResource`, as 1.22 does, and do what it does there."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def either(*args: Any, **given: Any) -> Any:
            if "slurm_resource" in given or any(isinstance(each, SlurmResource) for each in args):
                return getattr(import_module("dagster_slurm.compat.reconcile"), former)(*args, **given)
            return function(*args, **given)

        return cast("Function", either)

    return decorate


@_or_as_1_22("run_requests")
def reconcile_orphaned_slurm_runs(
    instance: DagsterInstance | None = None,
    *,
    retry: bool = True,
    run_ids: Sequence[str] | None = None,
    older_than_seconds: float = 0.0,
    gone_hosts: Collection[str] = (),
    dry_run: bool = False,
    code: Code | None = None,
    max_parallel: int = 4,
) -> list[ReconciledRun]:
    """Find the runs that Dagster holds for running though their processes have died, mark and finish them.

    No Slurm job is submitted by this itself, and none is cancelled but those of a terminated run that its process could
    not cancel: in this machine's own Slurm if they are there, else on the cluster of `SlurmResource.from_env()`. A run
    is marked failed and then retried from failure, which takes up its jobs; if every step had succeeded it is marked
    succeeded; if its cancellation had been asked for it is marked canceled, and its jobs go on. Where a daemon with
    `run_retries` is at work, the retry is left to that. Otherwise it is executed by a process of its own, and this
    returns when all of them have ended.

    Args:
        instance: Where the runs are; by default that of DAGSTER_HOME. It has to be persistent.
        retry: Whether to finish what was marked failed.
        run_ids: Only these; also runs that said nothing of their processes, and failed ones, to be retried.
        older_than_seconds: Leave runs alone of which Dagster recorded something in the last so many seconds.
        gone_hosts: Machines that are gone for good: none of their processes lives. By the name that a run's log has.
        dry_run: Change nothing, only tell.
        code: Where the code of the runs is, if not where they say.
        max_parallel: How many retries run at a time.

    Returns:
        What was found and done, one for each run that this package's jobs belong to or that was named.

    Raises:
        ConfigurationError: There is no DAGSTER_HOME, or no run of an id that was given.
    """
    plan = Plan(
        retry=retry,
        run_ids=run_ids,
        older_than_seconds=older_than_seconds,
        gone_hosts=gone_hosts,
        dry_run=dry_run,
        code=code,
        max_parallel=max_parallel,
    )
    with nullcontext(instance) if instance else instance_of_environment() as found:
        return list(reconciled_runs(found, plan))


@_or_as_1_22("sensor_of_requests")
def build_slurm_orphan_reconcile_sensor(
    name: str = "slurm_orphan_reconcile",
    *,
    minimum_interval_seconds: int = 60,
    older_than_seconds: float = 0.0,
    gone_hosts: Collection[str] = (),
    default_status: DefaultSensorStatus = DefaultSensorStatus.RUNNING,
) -> SensorDefinition:
    """A sensor that marks orphaned runs, so that the daemon's `run_retries` finish them.

    It executes and submits nothing itself, and cancels only what a terminated run could not cancel. Where `run_retries`
    are off it says so with each run it marks. It judges from where it is evaluated, which is the code location's
    process: the machine, and the container, in which Dagster's default launcher runs the workers.

    Args:
        name: The sensor's name, unique in the code location.
        minimum_interval_seconds: How often to look, at most.
        older_than_seconds: Leave runs alone of which Dagster recorded something in the last so many seconds.
        gone_hosts: Machines, or containers by their host names, that are gone for good: none of their processes lives.
        default_status: Running, unless somebody stops it: a sensor that is defined for this is meant to do it.

    Returns:
        A sensor for `Definitions(sensors=[...])`. It requests no runs, so it has no target.
    """

    @sensor(
        name=name,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description="Marks runs whose processes have died, so that run_retries take up their Slurm jobs.",
    )
    def reconcile(context: SensorEvaluationContext) -> SkipReason:
        plan = Plan(retry=False, retry_later=True, older_than_seconds=older_than_seconds, gone_hosts=gone_hosts)
        found = [run for run in reconciled_runs(context.instance, plan) if run.verdict in _TOLD]
        for run in found:
            context.log.info(str(run))
        marked = [run for run in found if run.verdict is Verdict.ORPHANED]
        return SkipReason(_summary(marked, finished_by_daemon=context.instance.run_retries_enabled))

    return reconcile


def _summary(marked: list[ReconciledRun], *, finished_by_daemon: bool) -> str:
    if not marked:
        return "No run of Slurm jobs has lost its processes."
    told = "\n".join(str(run) for run in marked)
    return f"{told}\nrun_retries finish those that failed." if finished_by_daemon else f"{told}\n{_HOW_TO_FINISH}"
