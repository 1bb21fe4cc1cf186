"""The payload as a Slurm job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dagster import Failure, PipesClient

from dagster_slurm.cluster.claims import Claims
from dagster_slurm.environments import ClusterPython, Deployed, Provider
from dagster_slurm.errors import DagsterSlurmError, JobFailedError, OutputNotFoundError, TransportError
from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.failure import job_failure
from dagster_slurm.job.retrying import decide_next
from dagster_slurm.launchers import Payload
from dagster_slurm.launchers.payload import PathLike
from dagster_slurm.pipes.arrays import CallArrays
from dagster_slurm.pipes.dagster_private import StepContext
from dagster_slurm.pipes.data import SlurmCompletedInvocation
from dagster_slurm.pipes.dry_run import refuse_in_dry_run
from dagster_slurm.pipes.failure import failure, failure_without_output
from dagster_slurm.pipes.interruptions import Interruptions
from dagster_slurm.pipes.launch import Finished, Launch, TerminatedError
from dagster_slurm.pipes.launch_key import PieceOfWork, Reattach, piece_of_work
from dagster_slurm.pipes.leases import take_lease
from dagster_slurm.pipes.outcome import SlurmOutcome, outcome_metadata
from dagster_slurm.pipes.partition_results import (
    Recorder,
    SlurmPartitionsInvocation,
    partitions_failure,
    partitions_of,
    recorded,
)
from dagster_slurm.pipes.partitions import PartitionsLaunch, TerminatedPartitionsError
from dagster_slurm.pipes.step import Step
from dagster_slurm.pipes.tidy import TIDY
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.request import JobRequest, merge
from dagster_slurm.work.spec import JobOptions, Tasks, WorkSpec, takes

if TYPE_CHECKING:
    # Part of `typing` from Python 3.11 on.
    from typing_extensions import Unpack

Request = JobRequest | Mapping[str, object]
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

    @takes(JobOptions)
    def run(  # type: ignore[override]
        self, *, context: StepContext, payload: Payload | PathLike, request: Request, **options: Unpack[JobOptions]
    ) -> SlurmCompletedInvocation:
        """Submit the payload, or find its job; follow it to its end, and collect what it reported.

        Args:
            context: The context of the asset, asset check or op.
            payload: The payload, or what `payload_from_path` makes one of.
            request: What to ask Slurm for: fields of `SlurmQueueConfig` and any other long option of sbatch.
            options: What else there is to say: see `JobOptions`.

        Raises:
            InvalidRequestError: Something about the request is wrong; nothing was uploaded or submitted.
            TransportError: The cluster could not be reached, or its directory not be written.
            SlurmError: Slurm's answer is not usable.
            Failure: The job did not succeed; the cause is a `JobFailedError`, or, where an output is not there, an
                `OutputNotFoundError`. Or the run was terminated.
            DagsterExecutionInterruptedError: This process is to stop; the job goes on.
        """
        refuse_in_dry_run("SlurmPipesClient.run")
        return self.do(Step.of(context), self._spec(payload, request, options))

    def do(self, step: Step, spec: WorkSpec) -> SlurmCompletedInvocation:
        """As `run`, with what is known of the step and merged of the call."""
        with self._begun(step, spec) as (work, interruptions):
            launch = Launch(step, self._connection, work, spec, interruptions, reattach=self._reattach)
            while not (finished := launch.to_the_end()).ended.is_success:
                self._go_on_or_raise(step, spec, finished)
        self._owe_removal(step, [finished.launch])
        return SlurmCompletedInvocation(finished.session.pipes, finished.collected, spec.metadata(self._told(finished)))

    @takes(JobOptions)
    def run_partitions(
        self,
        *,
        context: StepContext,
        payload: Payload | PathLike,
        request: Request,
        max_parallel: int | None,
        **options: Unpack[JobOptions],
    ) -> SlurmPartitionsInvocation:
        """Run the payload once for each partition of the run, as one job array with so many tasks at once.

        The arguments and errors are those of `run`, but that the failure is one of partitions.
        """
        refuse_in_dry_run("SlurmPipesClient.run_partitions")
        step = Step.of(context)
        tasks = Tasks(len(partitions_of(step)), max_parallel)
        return self.do_partitions(step, self._spec(payload, request, options, tasks))

    def do_partitions(self, step: Step, spec: WorkSpec) -> SlurmPartitionsInvocation:
        """As `run_partitions`, with what is known of the step and merged of the call."""
        partitions, recorder = partitions_of(step), Recorder(step, spec.name)
        with self._begun(step, spec) as (work, interruptions):
            done = {} if self._reattach == "never" else recorded(step, work.key.origin_run_id, spec.name)
            arrays = CallArrays(step, self._cluster, work, spec)
            launch = PartitionsLaunch(step, self._connection, spec, arrays, partitions, done, recorder, interruptions)
            launch.to_the_end()
        if launch.failed:
            raise partitions_failure(launch.failed, len(partitions))
        self._owe_removal(step, arrays.launches(launch.array_count))
        return SlurmPartitionsInvocation(step, recorder.results)

    def _spec(
        self, payload: Payload | PathLike, request: Request, options: JobOptions, tasks: Tasks | None = None
    ) -> WorkSpec:
        merged = request if isinstance(request, JobRequest) else merge(request)
        return WorkSpec.of(payload, request=merged, environment=self._environment, tasks=tasks, **options)

    @contextmanager
    def _begun(self, step: Step, spec: WorkSpec) -> Iterator[tuple[PieceOfWork, Interruptions]]:
        """Name the piece of work, and let nothing interrupt it where that does harm.

        Raises:
            InvalidRequestError: An input lies on another cluster.
            Failure: An output is not there, or the run was terminated.
        """
        for path in spec.staging.inputs.remote.values():
            path.on(self._cluster.host)
        take_lease(step.instance, step.run)
        TIDY.look()
        work = piece_of_work(step, spec.name, self._reattach)
        with Interruptions(step) as interruptions:
            try:
                yield work, interruptions
            except OutputNotFoundError as error:
                raise failure_without_output(error) from error
            except (TerminatedError, TerminatedPartitionsError) as terminated:
                # Dagster's own exception would let a RetryPolicy run the body again (1.13).
                raise Failure(f"The run was terminated: {terminated}", allow_retries=False) from None

    def _owe_removal(self, step: Step, launches: Iterable[RunDirectory]) -> None:
        """The directories go when Dagster has recorded the step's success."""
        for directory in () if self._debug_mode else launches:
            TIDY.after_success(step, self._cluster.transport, directory)

    def _go_on_or_raise(self, step: Step, spec: WorkSpec, finished: Finished) -> None:
        """Leave an attempt, and decide whether there is another one.

        Raises:
            Failure: There is none.
        """
        error, job_id = self._leave(step, finished), finished.handle.job_id
        outcomes = [*finished.earlier, finished.outcome]
        following = decide_next(spec.request, outcomes, spec.rules, spec.chain)
        if following.again:
            step.log.warning(f"Slurm job {job_id} ended as {finished.ended.state}: {following.reason}")
            return
        if spec.rules is not None or spec.chain.continues(outcomes[-1]):
            step.log.warning(f"Slurm job {job_id} ended as {finished.ended.state}, and {following.reason}")
        raise failure(error, outcome_metadata(self._told(finished)))

    def _told(self, finished: Finished) -> SlurmOutcome:
        return SlurmOutcome(finished.handle.job_id, finished.ended, finished.request, self._connection)

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
