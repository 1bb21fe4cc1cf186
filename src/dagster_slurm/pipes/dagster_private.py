"""The one file that touches what Dagster does not document. Each function says what it stands for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    DagsterError,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DataProvenance,
    EventLogEntry,
    Field,
    IOManager,
    JobDefinition,
    MaterializeResult,
    MultiPartitionKey,
    Noneable,
    OpExecutionContext,
    OutputContext,
    PartitionsDefinition,
    RepositoryDefinition,
    TimeWindow,
)
from dagster._check import CheckError
from dagster._cli.utils import get_instance_for_cli
from dagster._cli.workspace.cli_target import get_repository_python_origin_from_cli_opts
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
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.errors import DagsterHomeNotSetError, DagsterInvalidPropertyError, DagsterRunAlreadyExists
from dagster._core.events import DagsterEvent, EngineEventData, JobFailureData, RunFailureReason
from dagster._core.execution.api import ExecuteRunWithPlanIterable, create_execution_plan
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.execution.compute_logs import create_compute_log_file_key
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.execute_plan import _trigger_hook, dagster_event_sequence_for_step
from dagster._core.execution.plan.execute_step import (
    _build_data_version_tags,
    _get_code_version,
    _get_input_provenance_data,
)
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.outputs import StepOutputHandle
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster._core.execution.step_dependency_config import StepDependencyConfig, get_step_dependency_config_field
from dagster._core.execution.tags import get_tag_concurrency_limits_config
from dagster._core.instance.ref import InstanceRef
from dagster._core.log_manager import DagsterLogManager
from dagster._core.origin import JobPythonOrigin
from dagster._core.pipes.context import build_external_execution_context_data
from dagster._core.snap import snapshot_from_execution_plan
from dagster._core.storage.cloud_storage_compute_log_manager import CloudStorageComputeLogManager
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.tags import (
    BACKFILL_ID_TAG,
    BACKFILL_TAGS,
    GRPC_INFO_TAG,
    PARENT_RUN_ID_TAG,
    RESUME_RETRY_TAG,
    ROOT_RUN_ID_TAG,
    RUN_WORKER_ID_TAG,
    TAGS_TO_MAYBE_OMIT_ON_RETRY,
    WILL_RETRY_TAG,
)
from dagster._grpc.impl import core_execute_run
from dagster._serdes import deserialize_value, serialize_value
from dagster._utils.hosted_user_process import recon_job_from_origin, recon_repository_from_origin
from dagster._utils.interrupts import capture_interrupts
from dagster._utils.warnings import disable_dagster_warnings
from dagster_shared.cli import PythonPointerOpts

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.text import error_words

__all__ = [
    "PARENT_RUN_ID_TAG",
    "WILL_RETRY_TAG",
    "CheckError",
    "CodeOrigin",
    "EngineEvent",
    "StepContext",
    "code_origin",
    "create_retry",
    "engine_events",
    "execute_recorded_run",
    "free_pool_slots",
    "instance_from",
    "instance_of_environment",
    "is_already_materialized",
    "is_canceling_after",
    "is_of_graph",
    "is_step_over",
    "job_of_assets",
    "load_job",
    "load_repository",
    "log_engine_event",
    "mark_failed",
    "mark_succeeded",
    "op_context",
    "provenance_in",
    "report_engine_event",
    "retry_number",
    "step_key",
    "steps_left",
    "steps_to_come",
    "tags_of_retry",
    "window_of",
    "windows_of",
    "written_instance",
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


def mark_failed(instance: DagsterInstance, run: DagsterRun, message: str) -> None:
    """End a run whose process has died as Dagster itself does, for a reason other than a failed step.

    With `retry_on_asset_or_op_failure: false` the daemon retries for such reasons only (`auto_run_reexecution.py`).
    """
    reason = JobFailureData(error=None, failure_reason=RunFailureReason.UNEXPECTED_TERMINATION)
    instance.report_run_failed(run, message, reason)


def mark_succeeded(instance: DagsterInstance, run: DagsterRun, message: str) -> None:
    """End a run with success; for failure and cancellation the instance has methods, for this it has none."""
    event = DagsterEvent(DagsterEventType.RUN_SUCCESS.value, job_name=run.job_name, message=message)
    instance.report_dagster_event(event, run.run_id)


def steps_left(instance: DagsterInstance, run: DagsterRun) -> Sequence[str]:
    """The steps that a re-execution from failure would execute, as Dagster finds them for a run that has failed.

    Raises:
        dagster.DagsterError: The run, or one it continues, lacks what is needed to tell.
    """
    failed = run.with_status(DagsterRunStatus.FAILURE)
    return KnownExecutionState.build_resume_retry_reexecution(instance, failed)[0]


def free_pool_slots(instance: DagsterInstance, run_id: str) -> None:
    """Give back the slots of concurrency pools that a dead run holds; otherwise only the daemon does, after minutes."""
    if instance.event_log_storage.supports_global_concurrency_limits:
        instance.event_log_storage.free_concurrency_slots_for_run(run_id)


@contextmanager
def instance_of_environment() -> Iterator[DagsterInstance]:
    """The instance of DAGSTER_HOME, which may stand in `.env`, as for every command of Dagster.

    Raises:
        ConfigurationError: DAGSTER_HOME is not set, or is not usable.
    """
    with ExitStack() as stack:
        try:
            instance = stack.enter_context(get_instance_for_cli())
        except DagsterHomeNotSetError:
            raise ConfigurationError(
                "DAGSTER_HOME is not set, so it is not known where the runs are recorded",
                hint="Set it to the directory that Dagster was started with; without one, `dagster dev` keeps no runs.",
            ) from None
        except DagsterError as error:
            raise ConfigurationError(
                f"DAGSTER_HOME is not usable: {' '.join(str(error).split())}",
                hint="Set it to the directory that Dagster was started with.",
            ) from error
        yield instance


def written_instance(instance: DagsterInstance) -> str:
    """What another process needs to open the same instance; it may hold secrets. See `instance_from`."""
    return serialize_value(instance.get_ref())


@contextmanager
def instance_from(text: str) -> Iterator[DagsterInstance]:
    """The instance that `written_instance` wrote, with the variables of `.env` in the working directory."""
    with get_instance_for_cli(instance_ref=deserialize_value(text, InstanceRef)) as instance:
        yield instance


@dataclass(frozen=True)
class CodeOrigin:
    """Where Dagster found the code of a run: by which Python, and in which directory."""

    executable: str
    working_directory: str | None
    description: str


def code_origin(run: DagsterRun) -> CodeOrigin | None:
    """Where the run's code was found; None if the run does not tell, as one of a job that lived in memory."""
    origin = run.job_code_origin
    if origin is None:
        return None
    pointer = origin.get_repo_pointer()
    return CodeOrigin(origin.executable_path, getattr(pointer, "working_directory", None), pointer.describe())


def load_job(run: DagsterRun, *, options: Mapping[str, str | None] | None = None) -> ReconstructableJob:
    """The job of a run, from the code that it came from or, with options, from the one that is named there.

    Args:
        run: The run.
        options: `python_file` or `module_name`, `attribute`, `working_directory`, as `dagster job execute` has them.

    Raises:
        dagster.DagsterError: The code cannot be loaded, or has no such job.
    """
    if options is None:
        if run.job_code_origin is None:
            raise ConfigurationError("It is not recorded where the code of the run is", hint="Name it with -f or -m.")
        return recon_job_from_origin(run.job_code_origin)
    repository = get_repository_python_origin_from_cli_opts(PythonPointerOpts(**options))
    return recon_job_from_origin(JobPythonOrigin(run.job_name, repository))


def load_repository(options: Mapping[str, str | None]) -> RepositoryDefinition:
    """Everything that code defines, found as `dagster dev` finds it.

    Args:
        options: `python_file` or `module_name`, `attribute`, `working_directory`, as `dagster job execute` has them.

    Raises:
        dagster.DagsterError: The code cannot be loaded.
    """
    origin = get_repository_python_origin_from_cli_opts(PythonPointerOpts(**options))
    return recon_repository_from_origin(origin).get_definition()


def job_of_assets(repository: RepositoryDefinition, keys: AbstractSet[AssetKey]) -> JobDefinition:
    """A job of these assets alone, whose resources `execute_in_process(resources=...)` replaces.

    With its `asset_selection`, the resources that were given to the assets would win over those (1.13).
    """
    return repository.get_implicit_global_asset_job_def().get_subset(asset_selection=keys)


def tags_of_retry(instance: DagsterInstance, parent: DagsterRun) -> dict[str, str]:
    """The tags of a re-execution from failure, as `create_reexecuted_run` sets them (dagster 1.13).

    Left out are what is said of one run only and, besides, how to reach the process that worked on it.
    """
    here_only = {*TAGS_TO_MAYBE_OMIT_ON_RETRY, GRPC_INFO_TAG, RUN_WORKER_ID_TAG}
    kept = {key: value for key, value in parent.tags.items() if key not in here_only}
    backfill_id = parent.tags.get(BACKFILL_ID_TAG)
    backfill = instance.get_backfill(backfill_id) if backfill_id else None
    if backfill and backfill.status == BulkActionStatus.REQUESTED:
        kept |= {key: value for key, value in parent.tags.items() if key in BACKFILL_TAGS}
    root = parent.root_run_id or parent.run_id
    return {**kept, PARENT_RUN_ID_TAG: parent.run_id, ROOT_RUN_ID_TAG: root, RESUME_RETRY_TAG: "true"}


def create_retry(
    instance: DagsterInstance, parent: DagsterRun, job: ReconstructableJob, *, run_id: str, tags: Mapping[str, str]
) -> DagsterRun | None:
    """Record a re-execution from failure, not started yet; None if a run of that id is there already.

    The public `execute_job(reexecution_options=...)` drops the selection of checks and the `remote_job_origin`, without
    which the UI and the daemon cannot execute the new run again (1.13, `execution/api.py`).
    """
    part = job.get_subset(
        op_selection=parent.resolved_op_selection,
        asset_selection=parent.asset_selection,
        asset_check_selection=parent.asset_check_selection,
    )
    load_data = part.repository.get_definition().repository_load_data
    part = part.with_repository_load_data(load_data)
    definition = part.get_definition()
    steps, known_state = KnownExecutionState.build_resume_retry_reexecution(instance, parent)
    plan = create_execution_plan(
        part,
        run_config=parent.run_config,
        step_keys_to_execute=list(steps),
        known_state=known_state,
        instance_ref=instance.get_ref(),
        tags=tags,
        repository_load_data=load_data,
    )
    try:
        return instance.create_run(
            job_name=parent.job_name,
            run_id=run_id,
            run_config=parent.run_config,
            status=DagsterRunStatus.NOT_STARTED,
            tags=tags,
            root_run_id=parent.root_run_id or parent.run_id,
            parent_run_id=parent.run_id,
            step_keys_to_execute=plan.step_keys_to_execute,
            execution_plan_snapshot=snapshot_from_execution_plan(plan, definition.get_job_snapshot_id()),
            job_snapshot=definition.get_job_snapshot(),
            parent_job_snapshot=definition.get_parent_job_snapshot(),
            asset_selection=parent.asset_selection,
            asset_check_selection=parent.asset_check_selection,
            resolved_op_selection=parent.resolved_op_selection,
            op_selection=parent.op_selection,
            remote_job_origin=parent.remote_job_origin,
            job_code_origin=job.get_python_origin(),
            asset_graph=definition.asset_layer.asset_graph,
        )
    except DagsterRunAlreadyExists:
        return None


def execute_recorded_run(instance: DagsterInstance, run: DagsterRun, job: ReconstructableJob) -> None:
    """Execute a run that is recorded and not started, in this process, as a run worker of Dagster does.

    Raises:
        dagster.DagsterError: Something other than a step failed; the run's log has it, and the run has ended.
    """
    with capture_interrupts():
        for _ in core_execute_run(job, run, instance, inject_env_vars=False):
            pass


# -- an executor of our own: `dagster_slurm.executor`

THREADED_SCHEMA = {
    "max_concurrent": Field(Noneable(int), default_value=None, description="How many steps run at once; 1000 if null."),
    "tag_concurrency_limits": get_tag_concurrency_limits_config(),  # type: ignore[no-untyped-call]
    "retries": get_retries_config(),  # type: ignore[no-untyped-call]
    "step_dependency_config": get_step_dependency_config_field(),  # type: ignore[no-untyped-call]
}


@dataclass(frozen=True)
class ThreadedConfig:
    """The configuration of an executor, in classes that have no public names."""

    max_concurrent: int
    tag_concurrency_limits: list[dict[str, Any]] | None
    retries: RetryMode
    step_dependency_config: StepDependencyConfig


def threaded_config(config: Mapping[str, Any], max_concurrent: int) -> ThreadedConfig:
    """Read what `THREADED_SCHEMA` lets through."""
    return ThreadedConfig(
        config.get("max_concurrent") or max_concurrent,
        config.get("tag_concurrency_limits"),
        RetryMode.from_config(config["retries"]) or RetryMode.ENABLED,
        StepDependencyConfig.from_config(config.get("step_dependency_config")),
    )


def engine_event_of_plan(plan_context: Any, message: str, step_keys: Sequence[str]) -> DagsterEvent:
    """An engine event at the beginning of a plan's execution."""
    data = EngineEventData.in_process(os.getpid(), list(step_keys))
    return DagsterEvent.engine_event(plan_context, message, event_specific_data=data)


def run_plan(executor: Any, plan_context: Any, steps: Callable[[Any, Any], Iterator[DagsterEvent]]) -> Iterator[Any]:
    """Set resources up, run the steps, tear resources down, as the in-process executor does."""
    manager = PlanExecutionContextManager(
        job=plan_context.job,
        retry_mode=plan_context.retry_mode,
        execution_plan=plan_context.execution_plan,
        run_config=plan_context.run_config,
        dagster_run=plan_context.dagster_run,
        instance=plan_context.instance,
        raise_on_error=plan_context.raise_on_error,
        output_capture=plan_context.output_capture,
        step_dependency_config=executor.step_dependency_config,
    )
    return iter(
        ExecuteRunWithPlanIterable(
            execution_plan=plan_context.execution_plan, iterator=steps, execution_context_manager=manager
        )
    )


@contextmanager
def active_execution(job_context: Any, execution_plan: Any, config: ThreadedConfig) -> Iterator[ActiveExecution]:
    """Dagster's own account of which steps are ready, with its limits by tag and by pool."""
    with (
        InstanceConcurrencyContext(job_context.instance, job_context.dagster_run) as pools,
        ActiveExecution(
            execution_plan,
            retry_mode=config.retries,
            max_concurrent=config.max_concurrent,
            tag_concurrency_limits=config.tag_concurrency_limits,
            instance_concurrency_context=pools,
            step_dependency_config=config.step_dependency_config,
        ) as active,
    ):
        yield active


@contextmanager
def captured_for_the_run(job_context: Any) -> Iterator[list[DagsterEvent]]:
    """Capture what the process itself writes, such as C code, as the run's; yields the event that says so."""
    manager = job_context.instance.compute_log_manager
    key = manager.build_log_key_for_run(job_context.run_id, create_compute_log_file_key())  # type: ignore[no-untyped-call]
    with _uploaded(manager, key, job_context.log) as local, local.capture_logs(key) as context:
        yield [DagsterEvent.capture_logs(job_context, [], key, context)]


@contextmanager
def captured_for_a_step(step_context: Any) -> Iterator[tuple[DagsterEvent, dict[str, Any]]]:
    """Files for what one step writes, and the event that says where they are."""
    manager = step_context.instance.compute_log_manager
    key = manager.build_log_key_for_run(step_context.run_id, create_compute_log_file_key())  # type: ignore[no-untyped-call]
    with _uploaded(manager, key, step_context.log) as local:
        with ExitStack() as stack:
            opened = {
                name: stack.enter_context(local.open_log_stream(key, kind))
                for name, kind in (("stdout", ComputeIOType.STDOUT), ("stderr", ComputeIOType.STDERR))
            }
            files = {name: file for name, file in opened.items() if file is not None}
            yield DagsterEvent.capture_logs(step_context, [step_context.step.key], key, CapturedLogContext(key)), files
        if isinstance(local, LocalComputeLogManager):
            # By this file the UI knows that no more is to come; only `capture_logs` makes it.
            Path(local.complete_artifact_path(key)).touch()  # type: ignore[no-untyped-call]


@contextmanager
def _uploaded(manager: Any, key: Sequence[str], log: DagsterLogManager) -> Iterator[Any]:
    """What captures on this machine, for the time of the block; with the manager of a cloud it is uploaded then, once.

    A stream that such a manager opens is uploaded when it is closed, together with the other one, and both are removed:
    closing the second has two empty files take the place of the first's (1.13; dagster#2058). What could not be
    uploaded stays on this machine: it is no reason for a run to fail.
    """
    if not isinstance(manager, CloudStorageComputeLogManager):
        yield manager
        return
    with manager._poll_for_local_upload(key):
        yield manager.local_manager
    try:
        manager._on_capture_complete(key)
    except Exception as error:  # noqa: BLE001 - whatever a cloud's library raises
        log.warning(f"Compute logs were not uploaded: {error_words(error)}")


def events_of_step(step_context: Any) -> Iterator[DagsterEvent]:
    """Execute one step, and its hooks."""
    events = []
    for event in dagster_event_sequence_for_step(step_context):
        events.append(event)
        yield event
    yield from _trigger_hook(step_context, events)


def provenance_in(entry: Any) -> DataProvenance | None:
    """What was made of what, by the record of a materialisation."""
    return extract_data_provenance_from_entry(entry)


# -- the partitions of one step: `clients`


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
