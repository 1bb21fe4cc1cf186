"""Runs on record, their ends, their code and their retries: what Dagster does not document of them.

For other processes than the one that executes a step: those of `reconcile`, and the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from dagster import (
    AssetKey,
    DagsterError,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobDefinition,
    RepositoryDefinition,
)
from dagster._check import CheckError
from dagster._cli.utils import get_instance_for_cli
from dagster._cli.workspace.cli_target import get_repository_python_origin_from_cli_opts
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.errors import DagsterHomeNotSetError, DagsterRunAlreadyExists
from dagster._core.events import DagsterEvent, JobFailureData, RunFailureReason
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.instance.ref import InstanceRef
from dagster._core.origin import JobPythonOrigin
from dagster._core.snap import snapshot_from_execution_plan
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
from dagster_shared.cli import PythonPointerOpts
from yaml import YAMLError

from dagster_slurm.errors import ConfigurationError

__all__ = [
    "PARENT_RUN_ID_TAG",
    "WILL_RETRY_TAG",
    "CodeOrigin",
    "code_origin",
    "create_retry",
    "execute_recorded_run",
    "free_pool_slots",
    "instance_from",
    "instance_of_environment",
    "job_of_assets",
    "load_job",
    "load_repository",
    "mark_failed",
    "mark_succeeded",
    "steps_left",
    "tags_of_retry",
    "written_instance",
]


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
        except (DagsterError, CheckError, YAMLError, OSError, UnicodeError) as error:  # of dagster.yaml, as written
            raise ConfigurationError(
                f"DAGSTER_HOME is not usable: {' '.join(str(error).split())}",
                hint="Set it to the directory that Dagster was started with; its dagster.yaml has to be readable.",
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
