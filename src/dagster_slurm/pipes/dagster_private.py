"""A step, its run's log and its results: what Dagster does not document of them. Each function says what it stands for.

In one file, since every run loads it. `dagster_runs`, `dagster_execution` and `dagster_storage` are the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DataProvenance,
    EventLogEntry,
    IOManager,
    MaterializeResult,
    MultiPartitionKey,
    OpExecutionContext,
    OutputContext,
    PartitionsDefinition,
    TimeWindow,
)
from dagster._core.definitions.data_version import (
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    compute_logical_data_version,
    extract_data_provenance_from_entry,
)
from dagster._core.definitions.partitions.utils import (
    get_tags_from_multi_partition_key,
    has_one_dimension_time_window_partitioning,
)
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.errors import DagsterInvalidPropertyError
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.plan.execute_step import (
    _build_data_version_tags,
    _get_code_version,
    _get_input_provenance_data,
)
from dagster._core.execution.plan.outputs import StepOutputHandle
from dagster._core.log_manager import DagsterLogManager
from dagster._core.pipes.context import build_external_execution_context_data
from dagster._core.storage.tags import BACKFILL_ID_TAG
from dagster._utils.warnings import disable_dagster_warnings

__all__ = [
    "EngineEvent",
    "StepContext",
    "engine_events",
    "is_already_materialized",
    "is_canceling_after",
    "is_of_graph",
    "is_step_over",
    "log_engine_event",
    "op_context",
    "provenance_in",
    "report_engine_event",
    "retry_number",
    "step_key",
    "steps_to_come",
    "window_of",
    "windows_of",
]


StepContext = AssetExecutionContext | OpExecutionContext | AssetCheckExecutionContext
"""What a step's function is given, whatever kind of step it is."""
_STEP_ENDS = {DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_SKIPPED}


def step_key(context: OpExecutionContext) -> str:
    """The step's key, with its mapping key; for a function that is called directly, the name of its op.

    No public name leads to the key: `OpExecutionContext` offers it only through `get_step_execution_context`.
    """
    try:
        return context.get_step_execution_context().step.key
    except DagsterInvalidPropertyError:
        return context.op_def.name


def dagster_run(context: OpExecutionContext) -> DagsterRun | None:
    """The run; None for a function that is called directly, which has none and no such property."""
    try:
        return context.run
    except DagsterInvalidPropertyError:
        return None


def continues_from_parent(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether a run was planned from what its parent left undone.

    The public `execute_job(reexecution_options=ReexecutionOptions.from_failure(...))` sets no tag on the run (1.13);
    its plan remembers the parent.
    """
    if run.execution_plan_snapshot_id is None:
        return False
    snapshot = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    known = snapshot.initial_known_state
    return known is not None and known.parent_state is not None


def is_of_graph(context: OpExecutionContext) -> bool:
    """Whether the step's op is within a graph, or mapped; a function that is called directly has no such properties."""
    try:
        return context.node_handle.parent is not None or context.get_mapping_key() is not None
    except DagsterInvalidPropertyError:
        return False


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
    return filter(None, map(_engine_event, instance.all_logs(run_id, of_type=of_type)))


def _engine_event(entry: EventLogEntry) -> EngineEvent | None:
    data = entry.dagster_event.event_specific_data if entry.dagster_event else None
    if not isinstance(data, EngineEventData):
        return None
    return EngineEvent(entry.timestamp, entry.step_key, {name: value.value for name, value in data.metadata.items()})


def is_canceling_after(instance: DagsterInstance, run_id: str, begins: Callable[[EngineEvent], bool]) -> bool:
    """Whether a run's log has a RUN_CANCELING behind the first engine event of a kind; an entry's class is private."""
    kinds = {DagsterEventType.ENGINE_EVENT, DagsterEventType.RUN_CANCELING}
    has_begun = False
    for entry in instance.all_logs(run_id, of_type=kinds):
        if has_begun and entry.dagster_event_type is DagsterEventType.RUN_CANCELING:
            return True
        event = _engine_event(entry)
        has_begun = has_begun or (event is not None and begins(event))
    return False


def report_engine_event(
    instance: DagsterInstance, run: DagsterRun, message: str, metadata: Mapping[str, Any], *, step_key: str | None
) -> None:
    """Write an engine event with metadata into a run's log; what holds the metadata has no public name."""
    instance.report_engine_event(message, run, EngineEventData(metadata=metadata), step_key=step_key)


def log_engine_event(
    log: DagsterLogManager,
    run: DagsterRun,
    message: str,
    metadata: Mapping[str, Any],
    *,
    step_key: str,
    begins: str = "",
    ends: str = "",
) -> None:
    """Write an engine event through a step's log, at the level of its lines; the UI draws a span between markers."""
    data = EngineEventData(metadata=metadata, marker_start=begins or None, marker_end=ends or None)
    kind = DagsterEventType.ENGINE_EVENT.value
    event = DagsterEvent(kind, run.job_name, event_specific_data=data, message=message, step_key=step_key)
    log.log_dagster_event(logging.INFO, message, event)


def is_step_over(instance: DagsterInstance, run_id: str) -> Callable[[str], bool]:
    """Tells of a step's key whether the run's log has an end of it; the class of an entry of that log is private."""
    over = {entry.step_key for entry in instance.all_logs(run_id, of_type=_STEP_ENDS)}
    return over.__contains__


def steps_to_come(instance: DagsterInstance, run: DagsterRun) -> Sequence[str]:
    """The steps of a run's plan that have not ended, and that no failure keeps from being executed.

    Dagster writes no end of a step whose inputs will never be there.
    """
    if run.execution_plan_snapshot_id is None:
        return ()
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    ended = {entry.step_key: entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=_STEP_ENDS)}
    upstream = {
        step.key: {handle.step_key for each in step.inputs for handle in each.upstream_output_handles}
        for step in plan.steps
        if step.key in plan.step_keys_to_execute and step.key not in ended
    }
    lost = {key for key, event in ended.items() if event is None or not event.is_step_success}
    while more := {key for key, before in upstream.items() if before & lost} - lost:
        lost |= more
    return sorted(upstream.keys() - lost)


def provenance_in(entry: Any) -> DataProvenance | None:
    """What was made of what, by the record of a materialisation."""
    return extract_data_provenance_from_entry(entry)


def pipes_context_of(context: OpExecutionContext, extras: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a Pipes session would hand to a payload; `open_pipes_session` makes it only together with a session."""
    made = dict(build_external_execution_context_data(context, None if extras is None else dict(extras)))
    if not context.has_partition_key and context.has_partition_key_range:
        # Dagster leaves the range of a single run for many partitions out (1.13).
        made |= _range_of(context)
    return made


def _range_of(context: OpExecutionContext) -> dict[str, Any]:
    keys = context.partition_key_range
    made: dict[str, Any] = {"partition_key_range": {"start": keys.start, "end": keys.end}}
    if has_one_dimension_time_window_partitioning(context.get_step_execution_context().run_partitions_def):
        made["partition_time_window"] = window_of(context.partition_time_window)
    return made


def window_of(window: TimeWindow) -> dict[str, str]:
    """A time window as payloads find it."""
    return {"start": window.start.isoformat(), "end": window.end.isoformat()}


def windows_of(definition: PartitionsDefinition | None) -> Callable[[str], TimeWindow] | None:
    """What tells the time window of a partition; None where none has one."""
    if definition is None or not has_one_dimension_time_window_partitioning(definition):
        return None
    return definition.time_window_for_partition_key  # type: ignore[attr-defined, no-any-return]


def expect_results(context: OpExecutionContext, what: str) -> None:
    """Let a step that returns nothing, and whose output is required, fail with these words, as a Pipes session does."""
    context.set_requires_typed_event_stream(error_message=what)


@dataclass(frozen=True)
class Materialized:
    """A materialisation on record."""

    step_key: str | None
    asset_key: AssetKey
    partition: str | None
    metadata: Mapping[str, Any]


def materializations(instance: DagsterInstance, run_id: str) -> Iterator[Materialized]:
    """The materialisations of a run, oldest first; the class of an entry of its log is private."""
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION):
        found = entry.asset_materialization
        if found is not None:
            values = {name: value.value for name, value in found.metadata.items()}
            yield Materialized(entry.step_key, found.asset_key, found.partition, values)


class PartitionEvents:
    """Materialisations of single partitions out of the middle of a step.

    `log_event` is deferred until the step returns, lost if it raises, and comes on top of what the step's output
    brings (dagster 1.13).

    Args:
        context: The step's context.
    """

    def __init__(self, context: OpExecutionContext) -> None:
        self._step = context.get_step_execution_context()
        self._run = context.run
        self._version_tags: dict[AssetKey, Mapping[str, str]] = {}
        self._output_names: dict[AssetKey, str | None] = {}

    def output_of(self, asset_key: AssetKey) -> tuple[IOManager, OutputContext] | None:
        """An asset's IO manager and the context of its output, as Dagster makes them when the step returns.

        None where nothing is stored: the output is of type Nothing, or of another step of a graph asset.
        """
        name = self._output_name(asset_key)
        if name is None:
            return None
        handle = StepOutputHandle(self._step.step.key, name)
        context = self._step.get_output_context(handle)
        return None if context.dagster_type.is_nothing else (self._step.get_io_manager(handle), context)

    def materialize(
        self,
        asset_key: AssetKey,
        partition: str | None,
        result: MaterializeResult[Any],
        stored: Mapping[str, Any],
    ) -> None:
        """Record now that a partition, or an asset without any, was materialised with the versions of Dagster.

        Args:
            asset_key: Of which asset.
            partition: Of which partition.
            result: What was reported of it.
            stored: What its IO manager says of its value.
        """
        tags = {**self._versions(asset_key), **(result.tags or {})}
        if result.data_version is not None:
            tags |= {DATA_VERSION_TAG: result.data_version.value, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
        if backfill_id := self._run.tags.get(BACKFILL_ID_TAG):
            tags[BACKFILL_ID_TAG] = backfill_id
        if isinstance(partition, MultiPartitionKey):
            tags |= get_tags_from_multi_partition_key(partition)
        metadata = self._metadata(asset_key, partition, result.metadata or {}, stored)
        with disable_dagster_warnings():
            made = AssetMaterialization(asset_key, partition=partition, metadata=metadata, tags=tags)
        DagsterEvent.asset_materialization(self._step, made)

    def _metadata(
        self, asset_key: AssetKey, partition: str | None, reported: Mapping[str, Any], stored: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """With what the asset's function has added through its context; Dagster's own order of precedence."""
        name = self._output_name(asset_key)
        return {
            **reported,
            **((self._step.get_output_metadata(name) if name else None) or {}),
            **stored,
            **(self._step.get_asset_metadata(asset_key) or {}),
            **((self._step.get_asset_metadata(asset_key, partition) if partition else None) or {}),
        }

    def _output_name(self, asset_key: AssetKey) -> str | None:
        if asset_key not in self._output_names:
            of, layer = self._step.node_handle, self._step.job_def.asset_layer
            names = [output.name for output in self._step.step.step_outputs]
            found = (name for name in names if layer.get_asset_key_for_node_output(of, name) == asset_key)
            self._output_names[asset_key] = next(found, None)
        return self._output_names[asset_key]

    def _versions(self, asset_key: AssetKey) -> Mapping[str, str]:
        if asset_key not in self._version_tags:
            self._version_tags[asset_key] = self._read_versions(asset_key)
        return self._version_tags[asset_key]

    def _read_versions(self, asset_key: AssetKey) -> Mapping[str, str]:
        code_version = _get_code_version(asset_key, self._step)
        inputs = _get_input_provenance_data(asset_key, self._step)
        versions = {key: found["data_version"] for key, found in inputs.items()}
        return _build_data_version_tags(
            compute_logical_data_version(code_version, versions),
            code_version,
            inputs,
            data_version_is_user_provided=False,
        )


def already_materialized(asset_key: AssetKey) -> MaterializeResult[Any]:
    """An output for a step whose partitions are on record: steps after it go on, and nothing is recorded again.

    Dagster records no event for an output that carries this mark (1.13, `execute_step.py`).
    """
    return MaterializeResult(asset_key=asset_key, metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True})


def is_already_materialized(context: OutputContext) -> bool:
    """Whether an output is one of those."""
    return SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION in (context.output_metadata or {})
