"""Two assets that need each other while they are made; README.md says how they are run."""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, SlurmResource

PAYLOADS = Path(__file__).parent / "payloads"


@dg.multi_asset(specs=[dg.AssetSpec("wind"), dg.AssetSpec("surge")])
def storm(context: dg.AssetExecutionContext, compute: ComputeResource) -> Iterator[dg.MaterializeResult]:
    """A storm, and the lake that it drives."""
    done = compute.run_hetjob(
        context,
        assets=[
            ("wind", PAYLOADS / "wind.py", {"mem": "200M"}),
            ("surge", PAYLOADS / "surge.py", {"cpus": 2, "mem": "300M"}),
        ],
        on_failure="cancel",
        extra_env={"WIND_PORT": "47653"},
    )
    yield from done.get_results()


def compute_resource() -> ComputeResource:
    """Where it runs."""
    if os.environ.get("DEPLOYMENT") == "cluster":
        return ComputeResource(mode="slurm-hetjob", slurm=SlurmResource.from_env())
    return ComputeResource(mode="local")


defs = dg.Definitions(assets=[storm], resources={"compute": compute_resource()})
