"""What of Dagster's inside is used, by name and parameters: fails with the name of what a release has moved."""

from __future__ import annotations

import importlib
import inspect

import pytest

# Module, name in it, and the parameters by which we call it.
USED = [
    (
        "dagster._core.execution.api",
        "ExecuteRunWithPlanIterable",
        {"execution_plan", "iterator", "execution_context_manager"},
    ),
    (
        "dagster._core.execution.context_creation_job",
        "PlanExecutionContextManager",
        {
            *("job", "retry_mode", "execution_plan", "run_config", "dagster_run", "instance", "raise_on_error"),
            *("output_capture", "step_dependency_config"),
        },
    ),
    (
        "dagster._core.execution.plan.active",
        "ActiveExecution",
        {
            *("execution_plan", "retry_mode", "max_concurrent", "tag_concurrency_limits"),
            *("instance_concurrency_context", "step_dependency_config"),
        },
    ),
    ("dagster._core.execution.plan.active", "ActiveExecution.get_steps_to_execute", {"limit"}),
    ("dagster._core.execution.plan.active", "ActiveExecution.get_known_state", set()),
    ("dagster._core.execution.plan.active", "ActiveExecution.handle_event", {"dagster_event"}),
    ("dagster._core.execution.plan.active", "ActiveExecution.verify_complete", {"job_context", "step_key"}),
    ("dagster._core.execution.plan.active", "ActiveExecution.plan_events_iterator", set()),
    ("dagster._core.execution.plan.active", "ActiveExecution.concurrency_event_iterator", set()),
    ("dagster._core.execution.plan.active", "ActiveExecution.mark_interrupted", set()),
    ("dagster._core.execution.plan.execute_plan", "dagster_event_sequence_for_step", {"step_context"}),
    ("dagster._core.execution.plan.execute_plan", "_trigger_hook", {"step_context", "step_event_list"}),
    ("dagster._core.execution.plan.instance_concurrency_context", "InstanceConcurrencyContext", {"instance"}),
    ("dagster._core.definitions.job_definition", "JobDefinition.get_subset", {"asset_selection"}),
    ("dagster._core.definitions.reconstruct", "ReconstructableRepository.get_definition", set()),
    (
        "dagster._core.definitions.repository_definition",
        "RepositoryDefinition.get_implicit_global_asset_job_def",
        set(),
    ),
    ("dagster._utils.hosted_user_process", "recon_repository_from_origin", {"origin"}),
    ("dagster._core.execution.compute_logs", "create_compute_log_file_key", set()),
    ("dagster._core.execution.retries", "RetryMode.from_config", {"config_value"}),
    ("dagster._core.execution.retries", "get_retries_config", set()),
    ("dagster._core.execution.tags", "get_tag_concurrency_limits_config", set()),
    ("dagster._core.execution.step_dependency_config", "StepDependencyConfig.from_config", {"config_value"}),
    ("dagster._core.execution.step_dependency_config", "get_step_dependency_config_field", set()),
    ("dagster._core.events", "DagsterEvent.engine_event", {"plan_context", "message", "event_specific_data"}),
    ("dagster._core.events", "DagsterEvent.capture_logs", {"job_context", "step_keys", "log_key", "log_context"}),
    ("dagster._core.events", "EngineEventData.in_process", {"pid", "step_keys_to_execute"}),
    ("dagster._core.storage.compute_log_manager", "ComputeLogManager.open_log_stream", {"log_key", "io_type"}),
    ("dagster._core.storage.compute_log_manager", "ComputeLogManager.capture_logs", {"log_key"}),
    ("dagster._core.storage.local_compute_log_manager", "LocalComputeLogManager.complete_artifact_path", {"log_key"}),
    ("dagster._core.events", "DagsterEvent.asset_materialization", {"step_context", "materialization"}),
    (
        "dagster._core.execution.plan.execute_step",
        "_build_data_version_tags",
        {"data_version", "code_version", "input_provenance_data", "data_version_is_user_provided"},
    ),
    ("dagster._core.execution.plan.execute_step", "_get_code_version", {"asset_key", "step_context"}),
    ("dagster._core.execution.plan.execute_step", "_get_input_provenance_data", {"asset_key", "step_context"}),
    ("dagster._core.pipes.context", "build_external_execution_context_data", {"context", "extras"}),
    (
        "dagster._core.definitions.data_version",
        "compute_logical_data_version",
        {"code_version", "input_data_versions"},
    ),
    ("dagster._core.definitions.data_version", "extract_data_provenance_from_entry", {"entry"}),
    ("dagster._core.execution.context.op_execution_context", "OpExecutionContext.get_asset_provenance", {"asset_key"}),
    (
        "dagster._core.definitions.partitions.utils",
        "get_tags_from_multi_partition_key",
        {"multi_partition_key"},
    ),
]


@pytest.mark.parametrize(("module", "name", "parameters"), USED, ids=[name for _, name, _ in USED])
def test_it_is_there_and_takes_what_we_give(module: str, name: str, parameters: set[str]) -> None:
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    there = set(inspect.signature(found).parameters)
    assert parameters <= there, f"{module}.{name} has {sorted(there)}"
