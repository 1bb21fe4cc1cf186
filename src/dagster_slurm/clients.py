"""The ways to do what a call asks for: as Slurm jobs, and on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from dagster import PipesClient

from dagster_slurm.environments import ClusterPython, Deployed, Provider
from dagster_slurm.errors import ConfigurationError, DagsterSlurmError
from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.launchers import Payload
from dagster_slurm.launchers.payload import PathLike
from dagster_slurm.pipes.dagster_private import StepContext
from dagster_slurm.pipes.dagster_storage import kept_connections
from dagster_slurm.pipes.interruptions import SHARED, Interruptions
from dagster_slurm.pipes.launch_key import PieceOfWork, Reattach, piece_of_work
from dagster_slurm.pipes.partition_results import (
    COLLECTOR_FAULT,
    MetadataOf,
    Recorded,
    Recorder,
    SlurmCompletedInvocation,
    SlurmOutcome,
    SlurmPartitionsInvocation,
    has_lasted,
    is_temporary,
    metadata_here,
    outcome_metadata,
    partitions_of,
    recorded,
)
from dagster_slurm.pipes.run_notes import finish_tags, take_lease
from dagster_slurm.pipes.session import UnitSession
from dagster_slurm.pipes.step import Step, failure, partitions_failure, refuse_in_dry_run, terminated
from dagster_slurm.pipes.tidy import TIDY
from dagster_slurm.run_directory import ONE, RunDirectory
from dagster_slurm.slurm.request import JobRequest, merge
from dagster_slurm.work.carriers import UnitEnd
from dagster_slurm.work.here import LocalCarriers, Uninterrupted
from dagster_slurm.work.loop import Loop, Report, TerminatedError
from dagster_slurm.work.on_cluster import ClusterCarriers
from dagster_slurm.work.spec import JobOptions, PayloadOptions, Tasks, WorkSpec, takes

if TYPE_CHECKING:
    # Part of `typing` from Python 3.11 on.
    from typing_extensions import Unpack

    from dagster_slurm.session import SessionSpec


Failures = Mapping[str, tuple[DagsterSlurmError, UnitEnd]]
Follow = Callable[[Sequence[str], Report], Failures]
"""Brings units to their ends, and reports those that succeed."""
_MetadataOfEnd = Callable[[UnitEnd], Mapping[str, Any]]


class _Brought:
    """What Dagster records when the step returns it."""

    def __init__(self) -> None:
        self.taken: list[tuple[UnitEnd, UnitSession]] = []

    def take(self, end: UnitEnd, session: UnitSession) -> None:
        """As `Report.take`."""
        self.taken.append((end, session))

    def write(self) -> None:
        """As `Report.write`."""


class _Recorded:
    """What is recorded while the step goes on."""

    def __init__(self, recorder: Recorder, metadata_of: _MetadataOfEnd) -> None:
        self._recorder = recorder
        self._metadata_of = metadata_of
        self.write = recorder.write

    def take(self, end: UnitEnd, session: UnitSession) -> None:
        """As `Report.take`."""
        metadata, job_id = self._metadata_of(end), end.job_id
        self._recorder.take(end.unit, session, metadata, job_id=job_id, collected=end.collected)


def run_one(step: Step, follow: Follow, metadata_of: _MetadataOfEnd) -> SlurmCompletedInvocation:
    """A call without partitions.

    Raises:
        Failure: It has failed.
    """
    # A step of a graph asset returns a value for the next one.
    if step.is_asset and not step.is_of_graph:
        step.pipes.expect_results(
            "Return what `run(...)` gives: `.get_materialize_result()`, or yield `.get_results()`."
        )
    brought = _Brought()
    for error, end in follow((ONE,), brought).values():
        raise failure(error, metadata_of(end))
    ((end, session),) = brought.taken
    return SlurmCompletedInvocation(session.pipes, end.collected, metadata_of(end))


def run_each(
    step: Step, name: str | None, done: Recorded, follow: Follow, metadata_of: _MetadataOfEnd
) -> SlurmPartitionsInvocation:
    """A call for each partition of the run.

    Args:
        step: The step.
        name: The call's name, if it has one.
        done: What is on record for partitions.
        follow: Brings those that are not to their ends.
        metadata_of: What the end of one adds to its metadata.

    Raises:
        Failure: Partitions have failed; the others are materialised.
    """
    partitions, recorder = partitions_of(step), Recorder(step, name, done)
    left = [each for each in partitions if not set(step.asset_keys) <= done.get(each, {}).keys()]

    with kept_connections(step.instance, step.run.run_id) if step.run else nullcontext():
        failed = follow(left, _Recorded(recorder, metadata_of))
    if failed:
        raise partitions_failure({unit: error for unit, (error, _) in failed.items()}, len(partitions))
    return SlurmPartitionsInvocation(step, recorder.results, done)


Request = JobRequest | Mapping[str, object]


def _as_in_1_22(name: str, former: Mapping[str, object]) -> ConfigurationError:
    """The error for a client that is made of what one of dagster-slurm 1.22 is made of, or of nothing."""
    mode = '"local"' if name == "LocalPipesClient" else '"slurm", slurm=slurm_resource'
    return ConfigurationError(
        f"{name} takes no {', '.join(sorted(former))}" if former else f"{name} needs a connection",
        hint=f"Write `ComputeResource(mode={mode}, default_launcher=launcher)` in its place, and "
        "`compute.run(context, payload_path)`; or `SlurmPipesClient(slurm.connect())`. See docs/migration.md#clients.",
    )


class SlurmPipesClient(PipesClient):
    """Runs a payload as one Slurm job.

    Args:
        connection: The cluster, from `SlurmResource.connect()`; it has to be given.
        pre_deployed_env_path: An environment on the cluster, in place of `environment`.
        environment: What payloads run in; the cluster's own `python3` by default.
        debug_mode: Keep every run directory.
        cleanup_on_failure: After a failure keep only script, status and the end of stderr.
        reattach: Which jobs of earlier processes are taken for this call's: "retry", "asset" or "never".
        session: In whose allocation payloads are steps; None for a job each.
    """

    def __init__(
        self,
        connection: ClusterConnection | None = None,
        *,
        pre_deployed_env_path: str | None = None,
        environment: Provider | None = None,
        debug_mode: bool = False,
        cleanup_on_failure: bool = True,
        reattach: Reattach = "retry",
        session: SessionSpec | None = None,
        **former: object,
    ) -> None:
        if former or connection is None:
            raise _as_in_1_22(type(self).__name__, former)
        self._connection = connection
        self._session = session
        self._cluster = connection.cluster
        self._environment = Deployed(pre_deployed_env_path) if pre_deployed_env_path else environment or ClusterPython()
        self._debug_mode = debug_mode
        self._reattach = reattach
        # What its carriers have to know.
        self._ways = {"adopts_abandoned": reattach == "asset", "trims": cleanup_on_failure and not debug_mode}

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
            Failure: The job did not succeed; the cause is a `JobFailedError`, or, where an output is not there, an
                `OutputNotFoundError`. Or the run was terminated. Or nothing was submitted; the cause is an
                `InvalidRequestError` (it is not tried again), a `TransportError` or a `SlurmError`.
            DagsterExecutionInterruptedError: This process is to stop; the job goes on.
        """
        refuse_in_dry_run("SlurmPipesClient.run")
        return self.do(Step.of(context), self._spec(payload, request, options))

    def do(self, step: Step, spec: WorkSpec) -> SlurmCompletedInvocation:
        """As `run`, with what is known of the step and merged of the call."""
        work = piece_of_work(step, spec.name, self._reattach)
        return run_one(
            step, partial(self._follow, step, spec, work), partial(self._metadata_of_job, step, spec.metadata)
        )

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
        work = piece_of_work(step, spec.name, self._reattach)
        done = {} if self._reattach == "never" else recorded(step, work.key.origin_run_id, spec.name)
        follow = partial(self._follow, step, spec, work)
        from dagster_slurm.slurm.advice import Use, advice  # noqa: PLC0415 - what is needed at its end alone

        uses: list[Use] = []

        def metadata_of(end: UnitEnd) -> Mapping[str, Any]:
            outcome = self._outcome(end)
            metadata = self._metadata(step, spec.metadata, end, outcome)
            # What chooses figures may have left out those that the advice is about.
            uses.append(Use.of(metadata if spec.metadata is outcome_metadata else outcome_metadata(outcome)))
            return metadata

        invocation = run_each(step, spec.name, done, follow, metadata_of)
        # One line for all of them: their own figures are what the next range may go by.
        if said := advice(spec.request, uses, of="{} partitions"):
            step.log.info(said)
        return invocation

    def _spec(
        self, payload: Payload | PathLike, request: Request, options: JobOptions, tasks: Tasks | None = None
    ) -> WorkSpec:
        merged = request if isinstance(request, JobRequest) else merge(request)
        return WorkSpec.of(payload, request=merged, environment=self._environment, tasks=tasks, **options)

    def _follow(
        self, step: Step, spec: WorkSpec, work: PieceOfWork, units: Sequence[str], succeeded: Report
    ) -> Failures:
        """Bring units to their ends; nothing interrupts that where it does harm.

        Raises:
            InvalidRequestError: An input lies on another cluster.
            Failure: The run was terminated.
        """
        for path in spec.staging.inputs.remote.values():
            path.on(self._cluster.host)
        take_lease(step.instance, step.run)
        with Interruptions(step) as interruptions:
            loop, carriers = self._loop(step, spec, work, units, interruptions, succeeded)
            try:
                failures = loop.to_the_end()
            except TerminatedError as what:
                raise terminated(what) from None
            finally:
                finish_tags(step)
        if not failures and not self._debug_mode and not self._is_only_copy(step, spec, carriers.launch):
            TIDY.after_success(step, self._cluster.transport, carriers.launch)
        return failures

    def _loop(
        self,
        step: Step,
        spec: WorkSpec,
        work: PieceOfWork,
        units: Sequence[str],
        interruptions: Interruptions,
        succeeded: Report,
    ) -> tuple[Loop, ClusterCarriers]:
        kind = ClusterCarriers if self._session is None else _in(self._session)
        carriers = kind(step, self._connection, work, spec, interruptions, **self._ways)
        return Loop(step, spec, units, carriers, interruptions, succeeded), carriers

    def _is_only_copy(self, step: Step, spec: WorkSpec, launch: RunDirectory) -> bool:
        """Whether what was fetched goes with Dagster's storage, so that the run directory stays; which is said."""
        is_lost = spec.staging.outputs.needs_default and is_temporary(step)
        if is_lost:
            step.log.warning(
                "DAGSTER_HOME is not set: the outputs that were fetched go with Dagster's temporary storage. They stay "
                f"on {self._cluster.host} in {launch.path}; outputs_dir has them stay here"
            )
        return is_lost

    def _outcome(self, end: UnitEnd) -> SlurmOutcome:
        return SlurmOutcome(
            end.job_id if end.handle.session else end.handle.job_id,
            end.ended,
            end.carrier.request_of(end.unit),
            self._connection,
        )

    def _metadata_of_job(self, step: Step, metadata_of: MetadataOf, end: UnitEnd) -> Mapping[str, Any]:
        """Of a job of its own; for each of hundreds of tasks, a plot would cost more than it says."""
        outcome = self._outcome(end)
        metadata = self._metadata(step, metadata_of, end, outcome)
        if not has_lasted(end.ended):
            return metadata
        from dagster_slurm.pipes.usage import usage_metadata  # noqa: PLC0415 - what is short does without

        return {**metadata, **usage_metadata(step, outcome, metadata_of)}

    def _metadata(self, step: Step, metadata_of: MetadataOf, end: UnitEnd, outcome: SlurmOutcome) -> Mapping[str, Any]:
        metadata = dict(metadata_of(outcome) if end.ended.is_success else outcome_metadata(outcome))
        if self._session is not None and "node_hours" in metadata:
            metadata["node_hours"] = round(metadata["node_hours"] * self._session.share_of_node(outcome.request), 6)
        if COLLECTOR_FAULT in metadata:
            step.log.warning(f"Some metadata of the metrics_collector was left out: {metadata[COLLECTOR_FAULT]}")
        return metadata


def _in(session: SessionSpec) -> Callable[..., ClusterCarriers]:
    """Makes carriers in a session."""
    from dagster_slurm.work.in_session import SessionCarriers  # noqa: PLC0415 - a job of its own does without

    return partial(SessionCarriers, session=session)


class LocalPipesClient(PipesClient):
    """Runs a payload on this machine, in a fresh directory that holds it and its extra files.

    Its output is in the step's compute logs while it runs, as it is on a cluster. It ends with Dagster's process.

    Args:
        python: The interpreter for Python payloads; by default the one that runs Dagster.
        keep_directories: Leave the directories for inspection.
    """

    def __init__(self, *, python: str | None = None, keep_directories: bool = False, **former: object) -> None:
        if former:
            raise _as_in_1_22(type(self).__name__, former)
        self._python = python or sys.executable
        self._keep = keep_directories

    @takes(PayloadOptions)
    def run(  # type: ignore[override]
        self, *, context: StepContext, payload: Payload | PathLike, **options: Unpack[PayloadOptions]
    ) -> SlurmCompletedInvocation:
        """Run the payload and wait for its end.

        Args:
            context: The context of the asset, asset check or op.
            payload: The payload, or what `payload_from_path` makes one of.
            options: What else there is to say: see `PayloadOptions`.

        Raises:
            Failure: It ended with another exit code than 0; the cause is a `PayloadFailedError`. Or it has not left one
                of its outputs; the cause is an `OutputNotFoundError`.
        """
        refuse_in_dry_run("LocalPipesClient.run")
        return self.do(Step.of(context), WorkSpec.of(payload, **options))

    def do(self, step: Step, spec: WorkSpec) -> SlurmCompletedInvocation:
        """The same, for what is merged already."""
        call = piece_of_work(step, spec.name, "retry").key.call
        return run_one(step, partial(self._follow, step, spec, call), partial(self._metadata, spec.metadata))

    @takes(PayloadOptions)
    def run_partitions(
        self, *, context: StepContext, payload: Payload | PathLike, **options: Unpack[PayloadOptions]
    ) -> SlurmPartitionsInvocation:
        """Run the payload for each partition of the run, one after the other; each is on record when it ends.

        Args:
            context: The context of the asset.
            payload: The payload, or what `payload_from_path` makes one of.
            options: What else there is to say: see `PayloadOptions`.

        Raises:
            Failure: Partitions have failed; the others are materialised. Or the run has no partitions, or something
                else was asked for that cannot be had; the cause is an `InvalidRequestError`.
        """
        refuse_in_dry_run("LocalPipesClient.run_partitions")
        step = Step.of(context)
        return self.do_partitions(step, WorkSpec.of(payload, tasks=Tasks(len(partitions_of(step))), **options))

    def do_partitions(self, step: Step, spec: WorkSpec) -> SlurmPartitionsInvocation:
        """The same, for what is merged already."""
        key = piece_of_work(step, spec.name, "retry").key
        done = recorded(step, key.origin_run_id, spec.name)
        follow = partial(self._follow, step, spec, key.call)
        return run_each(step, spec.name, done, follow, partial(self._metadata, spec.metadata))

    def _metadata(self, metadata_of: MetadataOf, end: UnitEnd) -> Mapping[str, Any]:
        return metadata_here(metadata_of, end.ended)

    def _follow(self, step: Step, spec: WorkSpec, call: str, units: Sequence[str], succeeded: Report) -> Failures:
        carriers = LocalCarriers(step, spec, call, python=self._python, keeps=self._keep)
        # Where a run's steps are on threads, no signal and no exception of Dagster's comes to them.
        self._warn_of_temporary(step, spec)
        on_threads = SHARED.find(step.run) is not None
        interruptions = Interruptions(step, outlived=False) if on_threads else Uninterrupted()
        try:
            return Loop(step, spec, units, carriers, interruptions, succeeded).to_the_end()
        except TerminatedError as what:
            raise terminated(what) from None
        finally:
            carriers.remove()

    def _warn_of_temporary(self, step: Step, spec: WorkSpec) -> None:
        if spec.staging.outputs.needs_default and is_temporary(step):
            step.log.warning(
                "DAGSTER_HOME is not set: the outputs go with Dagster's temporary storage; outputs_dir has them stay"
            )
