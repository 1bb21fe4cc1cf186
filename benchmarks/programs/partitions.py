"""All partitions of an asset as one job array, in the run of a single-run backfill."""

import os
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, threaded_executor

NUMBER = int(os.environ["NUMBER"])
PAYLOAD = Path(__file__).parent / os.environ["PAYLOAD"]
KEYS = [f"{number:05}" for number in range(NUMBER)]


@dg.asset(
    partitions_def=dg.StaticPartitionsDefinition(KEYS),
    backfill_policy=dg.BackfillPolicy.single_run(),
    output_required=False,
)
def swept(context: dg.AssetExecutionContext, compute: ComputeResource):
    run = compute.run_partitions(context, PAYLOAD, extra_env={"PAYLOAD_SECONDS": os.environ["PAYLOAD_SECONDS"]})
    return run.get_materialize_result()


# What a backfill gives to its run.
WHOLE_RANGE = {"dagster/asset_partition_range_start": KEYS[0], "dagster/asset_partition_range_end": KEYS[-1]}
queue = SlurmQueueConfig(partition="compute", mem="50M", cpus=1, time_limit="00:10:00")
compute = ComputeResource(
    mode="slurm",
    slurm=SlurmResource(ssh=SlurmResource.from_env().ssh, queue=queue),
    pre_deployed_env_path=os.environ["DEPLOYED_ENVIRONMENT"],
)
defs = dg.Definitions(
    assets=[swept],
    jobs=[dg.define_asset_job("all", "*", tags=WHOLE_RANGE)],
    resources={"compute": compute},
    executor=threaded_executor,
)
