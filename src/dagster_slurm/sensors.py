"""For those with a daemon: a sensor that marks the runs whose processes have died."""

from __future__ import annotations

from dagster import DefaultSensorStatus, SensorDefinition, SensorEvaluationContext, SkipReason, sensor

from dagster_slurm.reconcile import Plan, ReconciledRun, reconciled_runs
from dagster_slurm.reconcile.decision import Verdict

_TOLD = (Verdict.ORPHANED, Verdict.CANCELLING)
_HOW_TO_FINISH = (
    "Nothing retries them: set `run_retries: {enabled: true, max_retries: 3}` in dagster.yaml, "
    "or run `dagster-slurm reconcile`."
)


def build_slurm_orphan_reconcile_sensor(
    name: str = "slurm_orphan_reconcile",
    *,
    minimum_interval_seconds: int = 60,
    older_than_seconds: float = 0.0,
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
        plan = Plan(retry=False, retry_later=True, older_than_seconds=older_than_seconds)
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
