"""A project whose asset runs all its partitions at once; it is loaded by the tests and by other processes."""

import os
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource

PAYLOAD = Path(os.environ["PAYLOAD"])
MAX_PARALLEL = int(os.environ.get("MAX_PARALLEL", "0")) or None
PARTITIONS = dg.StaticPartitionsDefinition([f"p{number:03d}" for number in range(int(os.environ["COUNT"]))])
ONE_RUN = dg.BackfillPolicy.single_run()


@dg.asset(partitions_def=PARTITIONS, backfill_policy=ONE_RUN)
def many(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    return compute.run_partitions(context, PAYLOAD, MAX_PARALLEL, extras={"factor": 3}).get_materialize_result()


@dg.asset(partitions_def=PARTITIONS, backfill_policy=ONE_RUN, deps=[many])
def after() -> None:
    pass


def compute_resource() -> ComputeResource:
    if os.environ["MODE"] == "local":
        return ComputeResource(mode="local")
    base = SlurmResource.from_env()
    queue = SlurmQueueConfig(partition="compute", mem=os.environ.get("MEM", "20M"), cpus=1, time_limit="00:05:00")
    return ComputeResource(
        mode="slurm",
        slurm=SlurmResource(ssh=base.ssh, queue=queue, remote_base=base.remote_base),
        max_node_hours=float(os.environ.get("MAX_NODE_HOURS", "100")),
        pre_deployed_env_path=os.environ.get("ENVIRONMENT"),
    )


defs = dg.Definitions(
    assets=[many, after],
    jobs=[dg.define_asset_job("all", "*")],
    resources={"compute": compute_resource()},
    executor=dg.in_process_executor,
)


def all_job() -> dg.JobDefinition:
    return defs.resolve_job_def("all")
