"""Assets that run the payload, in both of Dagster's executors. What a trial is to do comes with the run's tags."""

import os
from pathlib import Path

import dagster as dg

from dagster_slurm import (
    ComputeResource,
    RayLauncher,
    SlurmQueueConfig,
    SlurmResource,
    SparkLauncher,
    SSHConnectionResource,
)
from tests.faults.project import dying
from tests.faults.project.plan import PARTITIONS, Plan

PAYLOAD = Path(__file__).with_name("payload.py")
LAUNCHERS = {"": None, "ray": RayLauncher(), "spark": SparkLauncher()}


def run_payload(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """What the body of every asset here does."""
    plan = Plan.of(context.run.tags)
    _note_body(plan.name)
    dying.arm(plan)
    part = f".{context.partition_key}" if context.has_partition_key else ""
    variables = {
        "FAULTS_MARKS": f"{os.environ['FAULTS_MARKS_DIR']}/{plan.name}{part}",
        "FAULTS_LINES": str(plan.lines),
        "FAULTS_PAUSE_SECONDS": str(plan.pause_seconds),
        "FAULTS_LINE_BYTES": str(plan.line_bytes),
        "FAULTS_SLOW_END": "1" if plan.slow_end else "",
        "FAULTS_EXIT_CODE": str(plan.exit_code),
        "FAULTS_STREAMS": plan.streams,
        "FAULTS_GO": f"{os.environ['FAULTS_MARKS_DIR']}/{plan.name}.go" if plan.hold else "",
    }
    return compute.run(
        context,
        PAYLOAD,
        extra_env=variables,
        launcher=LAUNCHERS[plan.cluster],
        # By its comment a job is known also if it never runs the payload.
        extra_slurm_opts={"comment": f"{os.environ['FAULTS_WORLD_ID']}.{plan.name}{part}", **plan.slurm},
        extra_files=[plan.upload] if plan.upload else None,
        outputs=list(plan.outputs) or None,
    ).get_materialize_result()


def _note_body(trial: str) -> None:
    with (dying.NOTES / f"{trial}.bodies").open("a", encoding="utf-8") as notes:
        notes.write(f"{os.getpid()}\n")


@dg.asset
def plain(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """An asset as it mostly is."""
    return run_payload(context, compute)


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=5))
def retried(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """An asset that Dagster retries within the run."""
    return run_payload(context, compute)


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(PARTITIONS))
def parts(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """An asset with partitions."""
    return run_payload(context, compute)


EXECUTORS = {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}
JOBS = [
    dg.define_asset_job(f"{asset.key.to_user_string()}_{name}", selection=[asset], executor_def=executor)
    for asset in (plain, retried, parts)
    for name, executor in EXECUTORS.items()
]
CLUSTER = SlurmResource(
    ssh=SSHConnectionResource.from_env(),
    queue=SlurmQueueConfig(mem="50M", cpus=1, time_limit="00:10:00"),
    remote_base=os.environ["FAULTS_REMOTE_BASE"],
)
COMPUTE = ComputeResource(mode="slurm", slurm=CLUSTER, pre_deployed_env_path=os.environ["FAULTS_ENVIRONMENT"])
defs = dg.Definitions(assets=[plain, retried, parts], jobs=JOBS, resources={"compute": COMPUTE})
