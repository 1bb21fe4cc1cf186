"""Cancellations that a process could not finish: noted with their run, for `reconcile`."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dagster import DagsterInstance, DagsterRun, MetadataValue, RunsFilter

from dagster_slurm.job.cancelling import Order
from dagster_slurm.pipes.dagster_private import engine_events, report_engine_event
from dagster_slurm.pipes.step import Step

CANCELLATION_TAG = "dagster-slurm/to_be_cancelled"
"""On a run that has left jobs to be cancelled: its own id. On a copy of its tags that id is another's."""
_DONE = "no"
_KEY = "slurm_to_be_cancelled"


@dataclass(frozen=True)
class Unfinished:
    """What is left to be done.

    Args:
        host: The login node.
        base: The directory of the runs there.
        order: What is to be cancelled.
        machine: Where Dagster ran; empty in the note of a release that did not say so.
    """

    host: str
    base: str
    order: Order
    machine: str = ""


def leave_to_reconcile(step: Step, unfinished: Unfinished, left: str) -> None:
    """Note it with the step's run; a function that is called directly has none."""
    if step.run is None:
        return
    said = {"host": unfinished.host, "base": unfinished.base, "order": unfinished.order.to_json()}
    said["machine"] = socket.gethostname()
    report_engine_event(
        step.instance,
        step.run,
        f"Still to be cancelled on {unfinished.host}: {left}. `dagster-slurm reconcile` goes on with it.",
        {_KEY: MetadataValue.json(said)},
        step_key=step.key,
    )
    step.instance.add_run_tags(step.run.run_id, {CANCELLATION_TAG: step.run.run_id})


def runs_with_unfinished(instance: DagsterInstance) -> Iterable[DagsterRun]:
    """The runs that have left something."""
    ids = [value for _, values in instance.get_run_tags([CANCELLATION_TAG]) for value in values if value != _DONE]
    found = instance.get_runs(RunsFilter(run_ids=ids)) if ids else []
    return [run for run in found if run.tags.get(CANCELLATION_TAG) == run.run_id]


def unfinished_of(instance: DagsterInstance, run: DagsterRun) -> Iterator[Unfinished]:
    """What a run has left, by each of its steps."""
    for event in engine_events(instance, run.run_id):
        said = event.metadata.get(_KEY)
        if isinstance(said, dict):
            base = str(said["base"])
            order = Order.from_json(str(said["order"]), base)
            yield Unfinished(str(said["host"]), base, order, str(said.get("machine", "")))


def note_finished(instance: DagsterInstance, run: DagsterRun) -> None:
    """Nothing of it is left."""
    instance.add_run_tags(run.run_id, {CANCELLATION_TAG: _DONE})
