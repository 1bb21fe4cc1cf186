"""Where an asset's payload runs: on this machine, or as a Slurm job. The asset's code is the same."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from dagster import InitResourceContext, build_resources

from dagster_slurm.launchers.payload import PathLike
from dagster_slurm.pipes.dagster_private import StepContext, op_context
from dagster_slurm.pipes.launch_key import Reattach
from dagster_slurm.pipes.partition_results import SlurmCompletedInvocation, SlurmPartitionsInvocation, partitions_of
from dagster_slurm.pipes.run_notes import take_lease
from dagster_slurm.pipes.step import Step, stop_in_dry_run
from dagster_slurm.pipes.tidy import TIDY
from dagster_slurm.resources.call import work_of
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.resources.settings import Arguments, ComputeDefaults
from dagster_slurm.work.spec import Tasks, takes

if TYPE_CHECKING:
    # Part of `typing` from Python 3.11 on.
    from typing_extensions import Unpack

    from dagster_slurm.clients import LocalPipesClient, SlurmPipesClient
    from dagster_slurm.pipes.component_results import SlurmHetInvocation
    from dagster_slurm.resources.hetjob import HetAsset
    from dagster_slurm.resources.job_plan import JobPlan


_TAG_OF_1_22 = "dagster_slurm/job_id"


def _former(method: str, args: Sequence[Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    from dagster_slurm.compat.fields import as_our_arguments  # noqa: PLC0415 - for code of 1.22 only

    return as_our_arguments(method, args, given)


class ExecutionMode(str, enum.Enum):
    """Where payloads run."""

    LOCAL = "local"
    SLURM = "slurm"
    SLURM_SESSION = "slurm-session"
    SLURM_HETJOB = "slurm-hetjob"


class ComputeResource(ComputeDefaults):
    """Runs an asset's payload on this machine or as a Slurm job.

    Precedence, for everything: the call, then the launchpad (`SlurmRunConfig`), then the asset's metadata, then
    `#SBATCH` lines of the payload, then this resource, then what is built in.
    """

    def setup_for_execution(self, context: InitResourceContext) -> None:
        """Say in the run's log which process works on it: `dagster-slurm reconcile` can tell when it is gone."""
        if self.mode != "local" and context.instance is not None and context.run is not None:
            take_lease(context.instance, context.run)

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        """Remove the run directories of the steps that have succeeded."""
        TIDY.look()
        if self.shares_allocation and context.instance is not None and context.run is not None:
            from dagster_slurm.pipes.run_notes import is_last_process  # noqa: PLC0415
            from dagster_slurm.session.leases import LEASES  # noqa: PLC0415 - a job of its own does without

            instance, run = context.instance, context.run
            LEASES.drop(run.run_id, has_ended=lambda: is_last_process(instance, run))

    @takes(Arguments, former=_former)
    def run(
        self,
        context: StepContext,
        payload_path: PathLike,
        launcher: ComputeLauncher | None = None,
        **arguments: Unpack[Arguments],
    ) -> SlurmCompletedInvocation:
        """Run the payload and wait for its end; its logs and messages arrive in Dagster meanwhile.

        Args:
            context: The context of the asset, asset check or op.
            payload_path: A `.py` or `.sh` file, a program or script with a `#!` line, a directory with `__main__.py`,
                `-m package.module` or `package.module:function`.
            launcher: How to start it; by default `default_launcher`, which says what one of the same type leaves open.
            arguments: What else there is to say: see `Arguments`.

        Returns:
            Dagster's own: `get_results()`, `get_materialize_result()`, `get_asset_check_result()`,
            `get_custom_messages()`; and `outputs`, `kept` and `get_kept_result()`.

        Raises:
            dagster.Failure: The payload did not succeed; the cause is a `JobFailedError`, or an `OutputNotFoundError`.
                Or nothing was submitted: something about the request is wrong, and a RetryPolicy does not try it again
                (the cause is an `InvalidRequestError` or a `ConfigurationError`), or the cluster cannot be used now
                (any other `DagsterSlurmError`).
        """
        given = {"payload_path": payload_path, "launcher": launcher, **arguments}
        stop_in_dry_run(lambda: self._planned(Step.of_any(context), given, None))
        step = Step.of(context)
        spec = work_of(self, step, given)
        client = self._client()
        if step.run is not None and _TAG_OF_1_22 in step.run.tags and self.mode != "local":
            from dagster_slurm.compat.in_flight import refuse_beside_job_of_1_22  # noqa: PLC0415 - after a move only

            refuse_beside_job_of_1_22(self.cluster().connect().cluster, step, step.run.tags)
        return client.do(step, spec)

    @takes(Arguments, former=_former)
    def run_partitions(
        self,
        context: StepContext,
        payload_path: PathLike,
        max_parallel: int | None = None,
        launcher: ComputeLauncher | None = None,
        **arguments: Unpack[Arguments],
    ) -> SlurmPartitionsInvocation:
        """Run the payload once for each partition of the run: on a cluster as one job array.

        For the runs of a single-run backfill (`BackfillPolicy.single_run()`). Each partition has its own Pipes context,
        with its partition key, and is on record, with its own metadata, when its payload ends. One that fails, fails
        alone; a retry submits only those that have failed.

        Args:
            context: The context of the asset.
            payload_path: As for `run`. A payload that knows no Pipes finds the key in `DAGSTER_SLURM_PARTITION_KEY`.
            max_parallel: How many partitions run at once; None for no limit but the cluster's. In mode `local` they
                run one after the other.
            launcher: As for `run`.
            arguments: As for `run`. Outputs, results and scratch are those of each partition.

        Returns:
            `get_materialize_result()` and `get_results()`, which the asset returns or yields, and `partitions`.

        Raises:
            dagster.Failure: Partitions have failed: its text and metadata name them. The others are materialised. Or,
                as for `run`, nothing was submitted.
        """
        given = {"payload_path": payload_path, "launcher": launcher, **arguments}
        step = Step.of(context)
        stop_in_dry_run(lambda: self._planned(step, given, Tasks(len(partitions_of(step)), max_parallel)))
        spec = work_of(self, step, given, Tasks(len(partitions_of(step)), max_parallel))
        return self._client().do_partitions(step, spec)

    @takes(Arguments)
    def run_hetjob(
        self,
        context: StepContext,
        assets: Sequence[HetAsset],
        launchers: Mapping[Any, ComputeLauncher] | None = None,
        *,
        on_failure: str = "wait",
        **arguments: Unpack[Arguments],
    ) -> SlurmHetInvocation:
        """Run a payload for each asset of the step, all in one heterogeneous job: they begin together.

        Each component has its own shape, payload, launcher and Pipes context, and is on record when its payload ends. A
        retry submits only those that have failed. In mode `local` they run side by side as processes.

        Args:
            context: The context of a multi-asset.
            assets: For each component the asset's key, its payload as for `run`, and what it asks for: what
                `extra_slurm_opts` takes, or a `SlurmQueueConfig`.
            launchers: How to start them, by asset key; by default as for `run`.
            on_failure: What becomes of the others when one fails: "wait" lets them end, "cancel" ends them.
            arguments: As for `run`, for all of them.

        Returns:
            `get_results()`, which the asset yields, `get_materialize_result(asset_key)` and `components`.

        Raises:
            dagster.Failure: Some have failed: its text and metadata name them. The others are materialised. Or, as for
                `run`, nothing was submitted.
        """
        from dagster_slurm.resources.hetjob import run_hetjob  # noqa: PLC0415 - what most processes do without

        step = Step.of(context)
        whole = op_context(context).assets_def.node_keys_by_output_name.values() if step.is_asset else ()
        return run_hetjob(self, step, frozenset(whole), assets, launchers, on_failure, dict(arguments))

    @takes(Arguments, in_step=False)
    def plan(
        self,
        context: StepContext | None = None,
        payload_path: PathLike | None = None,
        launcher: ComputeLauncher | None = None,
        *,
        partitions: int | None = None,
        max_parallel: int | None = None,
        **arguments: Unpack[Arguments],
    ) -> JobPlan:
        """Say what `run` would do. Nothing is uploaded, installed or submitted; Slurm uses up a job id.

        Args:
            context: The context of a step; outside of one None, or what `build_asset_context()` makes.
            payload_path: As for `run`; it has to be given.
            launcher: As for `run`.
            partitions: Say what `run_partitions` would do with so many; None for `run`.
            max_parallel: As for `run_partitions`.
            arguments: As for `run`.

        Returns:
            The batch script, every option with where it comes from, what would be uploaded, when Slurm would start the
            job, and the node-hours. As text, it is Markdown.

        Raises:
            InvalidRequestError: As `run`.
            ConfigurationError: As `run`.
            SubmissionRejectedError: Slurm would not take the job.
            TransportError: The cluster cannot be reached.
        """
        if payload_path is None:
            raise TypeError("ComputeResource.plan() needs a payload_path, as run() does")
        given = {"payload_path": payload_path, "launcher": launcher, **arguments}
        tasks = None if partitions is None else Tasks(partitions, max_parallel)
        return self._planned(Step.of_any(context), given, tasks)

    def _planned(self, step: Step | None, given: dict[str, Any], tasks: Tasks | None) -> JobPlan:
        if step is None:
            # Within a run, Dagster has put the values of environment variables into the resource; here it is done now.
            with build_resources({"compute": self}) as ready:
                return _plan_of(ready.compute, None, given, tasks)
        return _plan_of(self, step, given, tasks)

    def _client(self) -> LocalPipesClient | SlurmPipesClient:
        # A third of the package, which a process that only loads definitions does not need.
        from dagster_slurm.clients import LocalPipesClient, SlurmPipesClient  # noqa: PLC0415

        if self.mode == "local":
            return LocalPipesClient(keep_directories=self.debug_mode)
        return SlurmPipesClient(
            self.cluster().connect(),
            debug_mode=self.debug_mode,
            cleanup_on_failure=self.cleanup_on_failure,
            reattach=cast("Reattach", self.reattach),
            session=self.session_spec() if self.shares_allocation else None,
        )


def _plan_of(resource: ComputeDefaults, step: Step | None, given: dict[str, Any], tasks: Tasks | None) -> JobPlan:
    from dagster_slurm.resources.plan import job_plan  # noqa: PLC0415 - for dry runs only

    spec = work_of(resource, step, given, tasks)
    session = resource.session_spec() if resource.shares_allocation else None
    return job_plan(spec, step, None if resource.mode == "local" else resource.cluster().connect().cluster, session)
