"""The payload as a Slurm job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dagster import OpExecutionContext, PipesClient, PipesClientCompletedInvocation

from dagster_slurm.environments import CLUSTER_PYTHON, Activation, activate_deployed
from dagster_slurm.errors import TransportError
from dagster_slurm.job.batch_script import batch_script, env_file
from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.events import Ended
from dagster_slurm.job.failure import job_failure
from dagster_slurm.job.handle import JobHandle
from dagster_slurm.job.persistence import Persistence
from dagster_slurm.job.submission import submit_once
from dagster_slurm.launchers import Payload, as_payload, direct_plan, launch_function, work_files
from dagster_slurm.launchers.payload import ExtraFiles, PathLike
from dagster_slurm.pipes.dagster_private import StepContext, op_context
from dagster_slurm.pipes.failure import failure
from dagster_slurm.pipes.follow import JobFollower
from dagster_slurm.pipes.launch_key import launch_key
from dagster_slurm.pipes.local import Planner
from dagster_slurm.pipes.session import PayloadSession, payload_session
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.efficiency import job_metrics
from dagster_slurm.slurm.request import JobRequest, merge
from dagster_slurm.transport import Transport

_SLURM_LOG_BYTES = 1 << 16


@dataclass(frozen=True)
class SlurmOutcome:
    """A job that succeeded, as a metrics collector sees it.

    Args:
        job_id: Slurm's id.
        ended: How it ended, with its accounting.
        request: What was asked of Slurm.
        connection: The cluster it ran on.
    """

    job_id: str
    ended: Ended
    request: JobRequest
    connection: ClusterConnection


MetadataOf = Callable[[SlurmOutcome], Mapping[str, Any]]


def outcome_metadata(outcome: SlurmOutcome) -> dict[str, Any]:
    """The metadata of a materialisation; without accounting, what the other witnesses know."""
    ended = outcome.ended
    known: dict[str, Any] = {
        **_requested_gpus(outcome.request),
        "slurm_job_id": outcome.job_id,
        "slurm_state": ended.state.value,
        "slurm_accounting_available": ended.record is not None,
    }
    accounted = job_metrics(ended.record) if ended.record else {}
    # The end line is exact where Slurm is not (see `job_failure`).
    exact = {"slurm_exit_code": ended.end_mark.exit_code} if ended.end_mark else {}
    return {**known, **accounted, **exact}


def _requested_gpus(request: JobRequest) -> dict[str, int]:
    """Sacct learns what a short job asked for after it has ended; what `gpus_per_node` says is known here."""
    by_other_means = {"gpus", "gpus-per-task", "gpus-per-socket", "gres", "tres-per-task"} & set(request.options)
    return {} if by_other_means else {"slurm_requested_gpus": request.gpus_per_node * request.nodes}


class SlurmPipesClient(PipesClient):
    """Runs a payload as one Slurm job.

    Args:
        connection: The cluster, from `SlurmResource.connect()`.
        pre_deployed_env_path: An environment on the cluster; None for the cluster's own `python3`.
        debug_mode: Keep every run directory.
        cleanup_on_failure: After a failure keep only script, status and the end of stderr.
    """

    def __init__(
        self,
        connection: ClusterConnection,
        *,
        pre_deployed_env_path: str | None = None,
        debug_mode: bool = False,
        cleanup_on_failure: bool = True,
    ) -> None:
        self._connection = connection
        self._cluster = connection.cluster
        self._environment_path = pre_deployed_env_path
        self._debug_mode = debug_mode
        self._cleanup_on_failure = cleanup_on_failure

    def run(  # type: ignore[override]
        self,
        *,
        context: StepContext,
        payload: Payload | PathLike,
        request: JobRequest | Mapping[str, object],
        extras: Mapping[str, Any] | None = None,
        plan: Planner = direct_plan,
        extra_env: Mapping[str, str] | None = None,
        extra_files: ExtraFiles | None = None,
        name: str | None = None,
        metadata: MetadataOf = outcome_metadata,
    ) -> PipesClientCompletedInvocation:
        """Submit the payload, follow it to its end, and collect what it reported.

        Args:
            context: The context of the asset, asset check or op.
            payload: The payload, or the path of its file.
            request: What to ask Slurm for: fields of `SlurmQueueConfig` and any other long option of sbatch.
            extras: Values for the payload, found in its Pipes context.
            plan: How to start it; a launcher's `plan`.
            extra_env: Environment variables of the payload.
            extra_files: Files and directories to put beside it.
            name: Tells this call from others in the same step.
            metadata: What the job adds to the metadata of the results.

        Raises:
            InvalidRequestError: Something about the request is wrong; nothing was uploaded or submitted.
            TransportError: The cluster could not be reached, or its directory not be written.
            SlurmError: Slurm's answer is not usable.
            Failure: The job did not succeed; the cause is a `JobFailedError`.
        """
        step = op_context(context)
        payload = as_payload(payload)
        request = request if isinstance(request, JobRequest) else merge(request)
        files = work_files(payload, extra_files)
        persist = Persistence(tell=lambda text, level: step.log.log(level, text), reached=self._was_reached)
        activation = persist(lambda: self._check(request))
        key = launch_key(step, name)
        directory = key.run_directory(self._cluster.base())
        launch = launch_function(plan(payload, activation), work_directory=directory.work, env_file=directory.env_file)
        script = batch_script(request, directory=directory, launch=launch)
        with payload_session(step, extras, context_path=directory.context, messages_path=directory.messages) as session:
            variables = env_file(session.variables(extra_env))
            persist(
                lambda: directory.create(
                    self._cluster.transport,
                    script=script,
                    env=variables,
                    context=session.context_data,
                    work=files,
                    progress=lambda report: step.log.info(str(report)),
                )
            )
            submission = persist(lambda: submit_once(self._cluster, directory, job_name=key.job_name))
            handle = JobHandle(key, directory, submission.job_id, submission.generation)
            step.log.info(
                f"Submitted Slurm job {handle.job_id} ({key.job_name}) on {self._cluster.host} "
                f"in {activation.description}; its directory is {directory.path}"
            )
            follower = JobFollower(step, self._connection, handle, session)
            ended = follower.follow(max_queue_seconds=request.max_queue_seconds)
        outcome = SlurmOutcome(handle.job_id, ended, request, self._connection)
        self._conclude(step, handle, ended, session, outcome_metadata(outcome))
        return PipesClientCompletedInvocation(session.pipes, metadata=dict(metadata(outcome)))

    def _was_reached(self) -> bool:
        return self._cluster.was_reached

    def _check(self, request: JobRequest) -> Activation:
        """Refuse what is wrong with the request, as Slurm and the cluster see it, before anything is uploaded."""
        self._cluster.check(request)
        if self._environment_path is None:
            return CLUSTER_PYTHON
        return activate_deployed(self._environment_path, self._cluster.environment_layout(self._environment_path))

    def _conclude(
        self,
        step: OpExecutionContext,
        handle: JobHandle,
        ended: Ended,
        session: PayloadSession,
        known: Mapping[str, Any],
    ) -> None:
        """Clean up as configured and raise the failure, if it is one."""
        directory = handle.directory
        if ended.state.is_success:
            if not self._debug_mode:
                self._tidy(step, directory.remove)
            return
        if self._cleanup_on_failure and not self._debug_mode:
            self._tidy(step, directory.trim)
        error = job_failure(
            ended,
            job_id=handle.job_id,
            host=self._cluster.host,
            stderr_tail=session.logs.stderr_tail(),
            slurm_log_tail=self._slurm_said(directory),
            kept_path=directory.path,
        )
        raise failure(error, known)

    def _slurm_said(self, directory: RunDirectory) -> str:
        """What Slurm and the batch script wrote beside the payload: the out-of-memory killer's line, and such."""
        try:
            said = self._cluster.transport.read_from(directory.slurm_log, 0, _SLURM_LOG_BYTES)
        except TransportError as error:
            return f"(not readable now: {error.message})"
        return said.decode("utf-8", "replace")

    def _tidy(self, step: OpExecutionContext, remove: Callable[[Transport], None]) -> None:
        try:
            remove(self._cluster.transport)
        except TransportError as error:
            # The result is in hand; what is left over is not worth failing for.
            step.log.warning(f"The run directory was not cleaned up: {error}")
