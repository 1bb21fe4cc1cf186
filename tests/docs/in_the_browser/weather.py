"""What the pictures of the documentation show: an asset that succeeds as a job, and one that fails."""

import os
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, SlurmResource

HERE = Path(__file__).parent


@dg.asset(metadata={"slurm": {"cpus_per_task": 2, "mem": "200M", "time_limit": "00:10:00"}})
def forecast(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """A forecast of nine steps."""
    return compute.run(context, HERE / "forecast.py", extras={"steps": 9}).get_materialize_result()


@dg.asset(metadata={"slurm": {"mem": "200M", "time_limit": "00:10:00"}})
def prices(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """Prices, of a table in which the column is missing."""
    return compute.run(context, HERE / "prices.py").get_materialize_result()


compute = ComputeResource(
    mode="slurm", slurm=SlurmResource.from_env(), pre_deployed_env_path=os.environ["CLUSTER_ENVIRONMENT"]
)
defs = dg.Definitions(assets=[forecast, prices], resources={"compute": compute})
