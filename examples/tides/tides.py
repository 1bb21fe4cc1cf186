"""One asset whose packages travel with it; README.md says how it is run."""

from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, SlurmResource, UvEnvironment

HERE = Path(__file__).parent


@dg.asset
def highest_tide(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """The highest tide of a day."""
    run = compute.run(context, HERE / "payloads" / "predict.py", extras={"day": "2026-03-20"})
    return run.get_materialize_result()


compute = ComputeResource(
    mode="slurm",
    slurm=SlurmResource.from_env(),
    environment=UvEnvironment(project_dir=str(HERE)),
)
defs = dg.Definitions(assets=[highest_tide], resources={"compute": compute})
