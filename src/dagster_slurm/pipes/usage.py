"""What a materialisation says of its job's use besides figures: a plot, and what the next job could ask for."""

from __future__ import annotations

from typing import Any

from dagster import AssetKey, AssetRecordsFilter, DagsterInstance, MetadataValue

from dagster_slurm.pipes.partition_results import (
    ADVICE,
    USAGE_PLOT,
    MetadataOf,
    SlurmOutcome,
    outcome_metadata,
    samples_of,
)
from dagster_slurm.pipes.step import Step
from dagster_slurm.pipes.usage_plot import can_draw, drawn, panels
from dagster_slurm.slurm.advice import Use, advice, is_worth_asking
from dagster_slurm.slurm.request import JobRequest

PAST_RUNS = 11
"""With the one that has ended, a dozen."""


def usage_metadata(step: Step, outcome: SlurmOutcome, metadata_of: MetadataOf) -> dict[str, Any]:
    """The advice and the plot of a job of its own, where there is something to say or to draw.

    Args:
        step: Its step.
        outcome: Its end.
        metadata_of: What the materialisation is to have; a function of users has all of it.
    """
    found: dict[str, Any] = {}
    if outcome.ended.is_success and _is_wanted(metadata_of, ADVICE):
        said = _advice(step, outcome.request, Use.of(outcome_metadata(outcome)))
        found |= {ADVICE: said} if said else {}
    if _is_wanted(metadata_of, USAGE_PLOT):
        found |= _plot(step, outcome)
    return found


def _is_wanted(metadata_of: MetadataOf, name: str) -> bool:
    wanted = None if metadata_of is outcome_metadata else getattr(metadata_of, "wanted", ())
    return wanted is None or name in wanted


def _advice(step: Step, request: JobRequest, use: Use) -> str:
    """Dagster's storage is asked once, and only where the runs before could make something of it."""
    if not step.is_asset or not step.asset_keys or not is_worth_asking(request, use):
        return ""
    return advice(request, [use, *past_uses(step.instance, step.asset_keys[0])])


def past_uses(instance: DagsterInstance, asset_key: AssetKey) -> list[Use]:
    """What the last jobs for an asset have used, as their materialisations tell."""
    found = instance.fetch_materializations(AssetRecordsFilter(asset_key=asset_key), limit=PAST_RUNS)
    made = (record.asset_materialization for record in found.records)
    return [Use.of({name: value.value for name, value in each.metadata.items()}) for each in made if each]


def _plot(step: Step, outcome: SlurmOutcome) -> dict[str, Any]:
    if not can_draw():
        return {}
    request, end = outcome.request, outcome.ended.end_mark
    figures = end.figures if end else None
    cpus = (figures.cpus if figures else None) or request.cpus_per_task
    mem_mib = request.mem_mib or (figures.mem_mib if figures else None)
    shown = panels(samples_of(outcome.ended), cpus=cpus, mem_mib=mem_mib, has_gpus=request.has_gpus)
    if not shown:
        return {}
    try:
        return {USAGE_PLOT: MetadataValue.md(drawn(shown))}
    except Exception as error:  # noqa: BLE001 - the job has ended, whatever matplotlib makes of it
        step.log.warning(f"The plot of what the job has used could not be drawn: {error!r}")
        return {}
