"""The one file that touches what Dagster does not document. Each function says what it stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetExecutionContext,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    OpExecutionContext,
)
from dagster._check import CheckError
from dagster._core.errors import DagsterInvalidPropertyError
from dagster._core.events import EngineEventData

__all__ = [
    "CheckError",
    "EngineEvent",
    "StepContext",
    "engine_events",
    "op_context",
    "report_engine_event",
    "retry_number",
    "step_key",
]

StepContext = AssetExecutionContext | OpExecutionContext | AssetCheckExecutionContext
"""What a step's function is given, whatever kind of step it is."""


def step_key(context: OpExecutionContext) -> str:
    """The step's key, with its mapping key; for a function that is called directly, the name of its op.

    No public name leads to the key: `OpExecutionContext` offers it only through `get_step_execution_context`.
    """
    try:
        return context.get_step_execution_context().step.key
    except DagsterInvalidPropertyError:
        return context.op_def.name


def retry_number(context: OpExecutionContext) -> int:
    """How often the step was retried; a function that is called directly never is, and has no such property."""
    try:
        return context.retry_number
    except (AttributeError, DagsterInvalidPropertyError):
        return 0


def op_context(context: StepContext) -> OpExecutionContext:
    """The op context behind an asset's or an asset check's, which all of them carry.

    Raises:
        TypeError: It is none of them.
    """
    inner: Any = getattr(context, "op_execution_context", None)
    if inner is None:
        raise TypeError(f"context is an asset, asset check or op context, not {type(context).__name__}")
    return inner  # type: ignore[no-any-return]


@dataclass(frozen=True)
class EngineEvent:
    """What an engine event of a run says. `timestamp` is in seconds since the epoch, by the clock of its writer."""

    timestamp: float
    step_key: str | None
    metadata: Mapping[str, Any]


def engine_events(
    instance: DagsterInstance, run_id: str, of_type: DagsterEventType = DagsterEventType.ENGINE_EVENT
) -> Iterator[EngineEvent]:
    """The events of a run that carry `EngineEventData`, oldest first; that class has no public name.

    Args:
        instance: Where the run is.
        run_id: Of a run that need not exist.
        of_type: `ENGINE_EVENT`, or `STEP_WORKER_STARTED`.
    """
    for entry in instance.all_logs(run_id, of_type=of_type):
        data = entry.dagster_event.event_specific_data if entry.dagster_event else None
        if isinstance(data, EngineEventData):
            values = {name: value.value for name, value in data.metadata.items()}
            yield EngineEvent(entry.timestamp, entry.step_key, values)


def report_engine_event(
    instance: DagsterInstance, run: DagsterRun, message: str, metadata: Mapping[str, Any], *, step_key: str | None
) -> None:
    """Write an engine event with metadata into a run's log; what holds the metadata has no public name."""
    instance.report_engine_event(message, run, EngineEventData(metadata=metadata), step_key=step_key)
