"""The payload as a Slurm job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dagster import Failure, PipesClient

from dagster_slurm.cluster.claims import Claims
from dagster_slurm.environments import ClusterPython, Deployed, Provider
from dagster_slurm.errors import DagsterSlurmError, JobFailedError, OutputNotFoundError, TransportError
from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.failure import job_failure
from dagster_slurm.job.retrying import Chain, RetryRules, decide_next
from dagster_slurm.launchers import Payload, Planner, as_payload, direct_plan, work_files
from dagster_slurm.launchers.payload import ExtraFiles, PathLike
from dagster_slurm.pipes.arrays import CallArrays
from dagster_slurm.pipes.dagster_private import StepContext
from dagster_slurm.pipes.data import SlurmCompletedInvocation
from dagster_slurm.pipes.dry_run import refuse_in_dry_run
from dagster_slurm.pipes.failure import failure, failure_without_output
from dagster_slurm.pipes.interruptions import Interruptions
from dagster_slurm.pipes.launch import Finished, Launch, TerminatedError
from dagster_slurm.pipes.launch_key import Reattach, piece_of_work
from dagster_slurm.pipes.leases import take_lease
from dagster_slurm.pipes.order import Order
from dagster_slurm.pipes.outcome import MetadataOf, SlurmOutcome, outcome_metadata
from dagster_slurm.pipes.partition_results import (
    Recorder,
    SlurmPartitionsInvocation,
    checked_max_parallel,
    partitions_failure,
    partitions_of,
    recorded,
    refuse_outputs,
)
from dagster_slurm.pipes.partitions import PartitionsLaunch, TerminatedPartitionsError
from dagster_slurm.pipes.step import Step
from dagster_slurm.pipes.tidy import TIDY
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.request import JobRequest, merge
from dagster_slurm.staging import DataOptions, plan_staging

_SLURM_LOG_BYTES = 1 << 16


class SlurmPipesClient(PipesClient):
    """Runs a payload as one Slurm job.

    Args:
        connection: The cluster, from `SlurmResource.connect()`.
        pre_deployed_env_path: An environment on the cluster, in place of `environment`.
        environment: What payloads run in; the cluster's own `python3` by default.
        debug_mode: Keep every run directory.
        cleanup_on_failure: After a failure keep only script, status and the end of stderr.
        reattach: Which jobs of earlier processes are taken for this call's: "retry", "asset" or "never".
    """

    def __init__(
        self,
        connection: ClusterConnection,
        *,
        pre_deployed_env_path: str | None = None,
        environment: Provider | None = None,
        debug_mode: bool = False,
        cleanup_on_failure: bool = True,
        reattach: Reattach = "retry",
    ) -> None:
        self._connection = connection
        self._cluster = connection.cluster
        self._environment = Deployed(pre_deployed_env_path) if pre_deployed_env_path else environment or ClusterPython()
        self._debug_mode = debug_mode
        self._cleanup_on_failure = cleanup_on_failure
        self._reattach = reattach

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
        force_env_push: bool = False,
        name: str | None = None,
        metadata: MetadataOf = outcome_metadata,
        rules: RetryRules | None = None,
        chain: Chain | None = None,
        data: DataOptions | None = None,
    ) -> SlurmCompletedInvocation:
        """Submit the payload, or find its job; follow it to its end, and collect what it reported.

        Args:
            context: The context of the asset, asset check or op.
            payload: The payload, or the path of its file.
            request: What to ask Slurm for: fields of `SlurmQueueConfig` and any other long option of sbatch.
            extras: Values for the payload, found in its Pipes context.
            plan: How to start it; a launcher's `plan`.
            extra_env: Environment variables of the payload.
            extra_files: Files and directories to put beside it.
            force_env_push: Install the environment anew, whatever is there.
            name: Tells this call from others in the same step.
            metadata: What the job adds to the metadata of the results.
            rules: Which ends are tried again within the call, and how; None for none.
            chain: Whether, and when, the work goes on in a further job.
            data: What the payload reads and leaves, besides its messages.

        Raises:
            InvalidRequestError: Something about the request is wrong; nothing was uploaded or submitted.
            TransportError: The cluster could not be reached, or its directory not be written.
            SlurmError: Slurm's answer is not usable.
            Failure: The job did not succeed; the cause is a `JobFailedError`, or, where an output is not there, an
                `OutputNotFoundError`. Or the run was terminated.
            DagsterExecutionInterruptedError: This process is to stop; the job goes on.
        """
        refuse_in_dry_run("SlurmPipesClient.run")
        step = Step.of(context)
        order = self._order(
            payload=as_payload(payload),
            request=request if isinstance(request, JobRequest) else merge(request),
            extras=extras,
            plan=plan,
            extra_env=extra_env,
            extra_files=extra_files,
            force_env_push=force_env_push,
            rules=rules,
            chain=chain or Chain(),
            data=data or DataOptions(),
        )
        finished = self._to_success(step, order, name)
        outcome = SlurmOutcome(finished.handle.job_id, finished.ended, finished.request, self._connection)
        if not self._debug_mode:
            TIDY.after_success(step, self._cluster.transport, finished.launch)
        return SlurmCompletedInvocation(finished.session.pipes, finished.collected, metadata(outcome))

    def run_partitions(
        self,
        *,
        context: StepContext,
        max_parallel: int | None,
        name: str | None = None,
        metadata: MetadataOf = outcome_metadata,
        **wanted: Any,
    ) -> SlurmPartitionsInvocation:
        """Run the payload once for each partition of the run, as one job array.

        Args:
            context: The context of the asset.
            max_parallel: How many partitions run at once; None for no limit but the cluster's.
            name: Tells this call from others in the same step.
            metadata: What a task adds to the metadata of its partition.
            wanted: `payload`, `request` and the others, as `run` has them.

        Raises:
            InvalidRequestError: Something about the request is wrong; nothing was uploaded or submitted.
            TransportError: The cluster could not be reached, or its directory not be written.
            SlurmError: Slurm's answer is not usable.
            Failure: Partitions have failed; or the run was terminated.
            DagsterExecutionInterruptedError: This process is to stop; the jobs go on.
        """
        refuse_in_dry_run("SlurmPipesClient.run_partitions")
        step = Step.of(context)
        partitions, order = partitions_of(step), self._order(**wanted)
        refuse_outputs(order.staging)
        take_lease(step.instance, step.run)
        TIDY.look()
        work = piece_of_work(step, name, self._reattach)
        recorder = Recorder(step, name)
        arrays = CallArrays(step, self._cluster, work, order, max_parallel)
        with Interruptions(step) as interruptions:
            launch = PartitionsLaunch(
                step,
                self._connection,
                order,
                arrays,
                partitions=partitions,
                done={} if self._reattach == "never" else recorded(step, work.key.origin_run_id, name),
                recorder=recorder,
                interruptions=interruptions,
                max_parallel=checked_max_parallel(max_parallel),
                metadata=metadata,
            )
            try:
                launch.to_the_end()
            except TerminatedPartitionsError as terminated:
                # Dagster's own exception would let a RetryPolicy run the body again (1.13).
                raise Failure(f"The run was terminated: {terminated}", allow_retries=False) from None
        if launch.failed:
            raise partitions_failure(launch.failed, len(partitions))
        if not self._debug_mode:
            for directory in arrays.launches(launch.array_count):
                TIDY.after_success(step, self._cluster.transport, directory)
        return SlurmPartitionsInvocation(step, recorder.results)

    def _order(
        self,
        *,
        payload: Payload,
        request: JobRequest,
        extras: Mapping[str, Any] | None,
        plan: Planner,
        extra_env: Mapping[str, str] | None,
        extra_files: ExtraFiles | None,
        force_env_push: bool,
        rules: RetryRules | None,
        chain: Chain,
        data: DataOptions,
    ) -> Order:
        """What is to be run, checked as far as this machine can tell."""
        files = tuple(work_files(payload, extra_files))
        staging = plan_staging(data, uploaded=[entry.name for entry in files])
        for path in staging.inputs.remote.values():
            path.on(self._cluster.host)
        environment = self._environment
        return Order(
            payload, request, plan, files, extras, extra_env, environment, force_env_push, rules, chain, staging
        )

    def _to_success(self, step: Step, order: Order, name: str | None) -> Finished:
        take_lease(step.instance, step.run)
        TIDY.look()
        work = piece_of_work(step, name, self._reattach)
        with Interruptions(step) as interruptions:
            launch = Launch(
                step,
                self._connection,
                work,
                order,
                interruptions,
                adopt_abandoned=self._reattach == "asset",
            )
            try:
                while not (finished := launch.to_the_end()).ended.state.is_success:
                    error = self._leave(step, finished)
                    self._go_on_or_raise(step, order, finished, error)
                return finished
            except OutputNotFoundError as error:
                raise failure_without_output(error) from error
            except TerminatedError as terminated:
                # Dagster's own exception would let a RetryPolicy run the body again (1.13).
                raise Failure(f"The run was terminated: {terminated}", allow_retries=False) from None

    def _go_on_or_raise(self, step: Step, order: Order, finished: Finished, error: JobFailedError) -> None:
        """Decide whether there is another attempt.

        Raises:
            Failure: There is none.
        """
        job_id, outcomes = finished.handle.job_id, [*finished.earlier, finished.outcome]
        following = decide_next(order.request, outcomes, order.rules, order.chain)
        if following.again:
            step.log.warning(f"Slurm job {job_id} ended as {finished.ended.state}: {following.reason}")
            return
        if order.rules is not None or order.chain.continues(outcomes[-1]):
            step.log.warning(f"Slurm job {job_id} ended as {finished.ended.state}, and {following.reason}")
        outcome = SlurmOutcome(job_id, finished.ended, finished.request, self._connection)
        raise failure(error, outcome_metadata(outcome))

    def _leave(self, step: Step, finished: Finished) -> JobFailedError:
        """Leave an attempt for the next one, clean up as configured, and say what happened."""
        handle, directory = finished.handle, finished.handle.directory
        outcome = finished.outcome.to_json()
        claims = Claims(self._cluster)
        self._tidy(step, lambda: claims.close(directory, generation=handle.generation, outcome=outcome))
        said = self._slurm_said(directory)
        if self._cleanup_on_failure and not self._debug_mode:
            self._tidy(step, lambda: directory.trim(self._cluster.transport))
        return job_failure(
            finished.ended,
            job_id=handle.job_id,
            host=self._cluster.host,
            stderr_tail=finished.session.logs.stderr_tail(),
            slurm_log_tail=said,
            kept_path=directory.path,
            request=finished.request,
            gave_up_waiting=finished.gave_up_waiting,
        )

    def _slurm_said(self, directory: RunDirectory) -> str:
        """What Slurm and the batch script wrote beside the payload: the out-of-memory killer's line, and such."""
        try:
            said = self._cluster.transport.read_from(directory.slurm_log, 0, _SLURM_LOG_BYTES)
        except TransportError as error:
            return f"(not readable now: {error.message})"
        return said.decode("utf-8", "replace")

    def _tidy(self, step: Step, action: Callable[[], object]) -> None:
        try:
            action()
        except DagsterSlurmError as error:
            # What happened to the job is known; what is left over there is not worth another failure.
            step.log.warning(f"The run directory was not tidied up: {error}")
