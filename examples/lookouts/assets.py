"""Where should fire lookouts stand to see most of the terrain? Three assets, none of which knows where it runs."""

from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource

PAYLOADS = Path(__file__).parent / "payloads"
SHARED = [PAYLOADS / "terrain.py"]


@dg.asset(check_specs=[dg.AssetCheckSpec("plausible", asset="elevations")])
def elevations(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """Elevations of a piece of Tennessee."""
    run = compute.run(context, PAYLOADS / "elevations.py", extra_files=SHARED)
    return run.get_materialize_result()


@dg.asset(deps=[elevations], metadata={"slurm": {"cpus_per_task": 4, "mem": "2G", "time_limit": "00:10:00"}})
def viewsheds(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """What can be seen from a tower on each hill top; the heavy one, so it asks for more."""
    run = compute.run(context, PAYLOADS / "viewsheds.py", extra_files=SHARED, extras={"reach_cells": 12, "tower_m": 15})
    return run.get_materialize_result()


@dg.asset(deps=[viewsheds], check_specs=[dg.AssetCheckSpec("most_is_seen", asset="lookouts")])
def lookouts(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
    """The hill tops that together see most, and their map."""
    run = compute.run(
        context,
        PAYLOADS / "lookouts.py",
        extra_files=SHARED,
        extras={"lookouts": 6},
        extra_env={"MPLBACKEND": "Agg"},
    )
    for message in run.get_custom_messages():
        context.log.info(f"The lookouts stand at {message['rows_and_columns']}")
    return run.get_materialize_result()


def definitions(compute: ComputeResource) -> dg.Definitions:
    """The project, on the given compute resource: all that differs between here and a cluster."""
    return dg.Definitions(
        assets=[elevations, viewsheds, lookouts],
        resources={"compute": compute},
        # The work is done elsewhere: one process, and one connection to the cluster, for all steps of a run.
        executor=dg.in_process_executor,
    )
