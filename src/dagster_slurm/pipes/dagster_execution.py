"""What an executor needs of Dagster's inside: `dagster_slurm.executor`. Each function says what it stands for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster import Field, Noneable
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.api import ExecuteRunWithPlanIterable
from dagster._core.execution.compute_logs import create_compute_log_file_key
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.execute_plan import _trigger_hook, dagster_event_sequence_for_step
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster._core.execution.step_dependency_config import StepDependencyConfig, get_step_dependency_config_field
from dagster._core.execution.tags import get_tag_concurrency_limits_config
from dagster._core.log_manager import DagsterLogManager
from dagster._core.storage.cloud_storage_compute_log_manager import CloudStorageComputeLogManager
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

from dagster_slurm.text import error_words

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
