"""A range of partitions in one run, nothing done for them, over Dagster's own storage: what any integration costs."""

import os
from contextlib import nullcontext

import dagster as dg

from dagster_slurm import executor

executor.kept_connections = lambda instance, run_id: nullcontext()
KEYS = [f"{number:05}" for number in range(int(os.environ["NUMBER"]))]


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(KEYS), backfill_policy=dg.BackfillPolicy.single_run())
def swept() -> dg.MaterializeResult:
    return dg.MaterializeResult()


# What a backfill gives to its run.
WHOLE_RANGE = {"dagster/asset_partition_range_start": KEYS[0], "dagster/asset_partition_range_end": KEYS[-1]}
defs = dg.Definitions(
    assets=[swept],
    jobs=[dg.define_asset_job("all", "*", tags=WHOLE_RANGE)],
    executor=executor.threaded_executor,
)
