"""One asset that uses all nodes of its job; README.md says how it is run."""

import os
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, RayLauncher, SlurmResource, UvEnvironment

HERE = Path(__file__).parent
THREE_NODES = {"nodes": 3, "cpus": 2, "mem": "2G", "time_limit": "00:10:00"}


@dg.asset(metadata={"slurm": THREE_NODES})
def best_parameters(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """The parameters of the regression with the least error."""
    extras = {"trials": int(os.environ.get("TRIALS", "48"))}
    return compute.run(context, HERE / "payloads" / "search.py", extras=extras).get_materialize_result()


def compute_resource() -> ComputeResource:
    """This machine, or the cluster that `SLURM_*` names; the launcher is the same."""
    if os.environ.get("DEPLOYMENT") != "cluster":
        return ComputeResource(mode="local", default_launcher=RayLauncher())
    return ComputeResource(
        mode="slurm",
        slurm=SlurmResource.from_env(),
        environment=UvEnvironment(project_dir=str(HERE)),
        default_launcher=RayLauncher(),
    )


defs = dg.Definitions(assets=[best_parameters], resources={"compute": compute_resource()})
