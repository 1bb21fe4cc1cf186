"""One asset that ranks of PyTorch train, on this machine or on a cluster; README.md says how it is run."""

import os
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, SlurmResource, TorchrunLauncher

HERE = Path(__file__).parent


@dg.asset
def fitted_line(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """A line through noisy points. A job that is preempted starts again, and goes on from its checkpoint."""
    run = compute.run(
        context,
        HERE / "payloads" / "train.py",
        launcher=TorchrunLauncher(nproc_per_node=2),
        extras={"points": 1000, "epochs": 200},
        extra_slurm_opts={"nodes": 3, "cpus": 2, "mem": "4G", "requeue": True},
    )
    return run.get_materialize_result()


def local() -> ComputeResource:
    """Two ranks on this machine, with its own Python."""
    return ComputeResource(mode="local")


def cluster() -> ComputeResource:
    """Two ranks on each of three nodes, in an environment of the cluster that has torch."""
    path = os.environ["TRAINING_ENVIRONMENT"]
    return ComputeResource(mode="slurm", slurm=SlurmResource.from_env(), pre_deployed_env_path=path)


defs = dg.Definitions(
    assets=[fitted_line], resources={"compute": cluster() if "TRAINING_ENVIRONMENT" in os.environ else local()}
)
