"""One asset that many ranks compute, on this machine or on a cluster; README.md says how it is run."""

import os
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, MPILauncher, SlurmResource, UvEnvironment

HERE = Path(__file__).parent


# MPICH's wheel now and then fails in MPI_Init, before there is a world (pmodels/mpich#7417).
@dg.asset(retry_policy=dg.RetryPolicy(max_retries=2))
def cooled_plate(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """A square plate after a while in the cold."""
    run = compute.run(
        context,
        HERE / "payloads" / "heat.py",
        launcher=MPILauncher(tasks_per_node=2),
        extras={"points": 120, "steps": 400},
        extra_slurm_opts={"nodes": 3, "cpus": 1, "mem": "1G"},
    )
    return run.get_materialize_result()


def local() -> ComputeResource:
    """Two ranks on this machine, with its own Python."""
    return ComputeResource(mode="local")


def cluster() -> ComputeResource:
    """Two ranks on each of three nodes, with the packages of `uv.lock`."""
    environment = UvEnvironment(project_dir=str(HERE))
    return ComputeResource(mode="slurm", slurm=SlurmResource.from_env(), environment=environment)


defs = dg.Definitions(
    assets=[cooled_plate], resources={"compute": cluster() if "SLURM_EDGE_NODE_HOST" in os.environ else local()}
)
