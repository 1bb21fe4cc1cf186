"""Many assets, each one a job, with the `threaded_executor` of this project."""

import os
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, threaded_executor

PAYLOAD = Path(__file__).parent / os.environ["PAYLOAD"]


def made(number: int) -> dg.AssetsDefinition:
    @dg.asset(name=f"asset_{number}")
    def one(context: dg.AssetExecutionContext, compute: ComputeResource):
        variables = {"PAYLOAD_SECONDS": os.environ["PAYLOAD_SECONDS"]}
        return compute.run(context, PAYLOAD, extra_env=variables).get_materialize_result()

    return one


queue = SlurmQueueConfig(partition="compute", mem="50M", cpus=1, time_limit="00:10:00")
compute = ComputeResource(
    mode="slurm",
    slurm=SlurmResource(ssh=SlurmResource.from_env().ssh, queue=queue),
    pre_deployed_env_path=os.environ["DEPLOYED_ENVIRONMENT"],
)
defs = dg.Definitions(
    assets=[made(number) for number in range(int(os.environ["NUMBER"]))],
    jobs=[dg.define_asset_job("all", "*")],
    resources={"compute": compute},
    executor=threaded_executor,
)
