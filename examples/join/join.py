"""One asset that joins over all nodes of its job; README.md says how it is run."""

import os
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, SlurmResource, SparkLauncher, UvEnvironment

HERE = Path(__file__).parent
# A few for each CPU; of Spark's own 200 each would be a moment's work.
SPARK = SparkLauncher(conf={"spark.sql.shuffle.partitions": "48"})
THREE_NODES = {"nodes": 3, "cpus": 2, "mem": "3G", "time_limit": "00:15:00"}


@dg.asset(metadata={"slurm": THREE_NODES})
def encounters(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """How often two ships of the fleet were at one place in one hour."""
    extras = {"ships": int(os.environ.get("FLEET", "2000"))}
    return compute.run(context, HERE / "payloads" / "encounters.py", extras=extras).get_materialize_result()


def compute_resource() -> ComputeResource:
    """This machine, or the cluster that `SLURM_*` names; the launcher is the same."""
    if os.environ.get("DEPLOYMENT") != "cluster":
        return ComputeResource(mode="local", default_launcher=SPARK)
    return ComputeResource(
        mode="slurm",
        slurm=SlurmResource.from_env(),
        environment=UvEnvironment(project_dir=str(HERE)),
        default_launcher=SPARK,
    )


defs = dg.Definitions(assets=[encounters], resources={"compute": compute_resource()})
