"""As many assets that do nothing, with the same executor over Dagster's own storage: what any integration costs."""

import os
from contextlib import nullcontext

import dagster as dg

from dagster_slurm import executor

executor.kept_connections = lambda instance, run_id: nullcontext()


def made(number: int) -> dg.AssetsDefinition:
    @dg.asset(name=f"asset_{number}")
    def one() -> dg.MaterializeResult:
        return dg.MaterializeResult()

    return one


defs = dg.Definitions(
    assets=[made(number) for number in range(int(os.environ["NUMBER"]))],
    jobs=[dg.define_asset_job("all", "*")],
    executor=executor.threaded_executor,
)
