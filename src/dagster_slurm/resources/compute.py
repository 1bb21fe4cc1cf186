"""Where an asset's payload runs: on this machine, or as a Slurm job. The asset's code is the same."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dagster import (
    Config,
    ConfigurableResource,
    InitResourceContext,
)
from pydantic import ConfigDict, Field

from dagster_slurm.environments import Provider
from dagster_slurm.launchers.payload import ExtraFiles, PathLike
from dagster_slurm.metrics import MetricsCollector, SlurmMetric
from dagster_slurm.pipes.dagster_private import StepContext
from dagster_slurm.pipes.data import SlurmCompletedInvocation
from dagster_slurm.pipes.dry_run import stop_in_dry_run
from dagster_slurm.pipes.leases import take_lease
from dagster_slurm.pipes.local import LocalPipesClient
from dagster_slurm.pipes.partition_results import SlurmPartitionsInvocation, partitions_of
from dagster_slurm.pipes.slurm import SlurmPipesClient
from dagster_slurm.pipes.step import Step
from dagster_slurm.pipes.tidy import TIDY
from dagster_slurm.resources.call import Arguments, Call, affordable
from dagster_slurm.resources.environments import Environment
from dagster_slurm.resources.field_types import ExitCode, NotNegative
from dagster_slurm.resources.job_plan import JobPlan
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.resources.plan import job_plan
from dagster_slurm.resources.plan_contents import Tasks
from dagster_slurm.resources.retry_policy import SlurmRetryPolicy
from dagster_slurm.resources.slurm import SlurmResource
from dagster_slurm.staging.plan import InputsOption, OutputsOption


class ExecutionMode(str, enum.Enum):
    """Where payloads run."""

    LOCAL = "local"
    SLURM = "slurm"


class SlurmRunConfig(Config):
    """What can be chosen in the launchpad for one run. What is not set is left to the asset and the resource."""

    force_env_push: bool | None = Field(default=None, description="Install the environment anew.")
    environment_name: str | None = Field(default=None, description="Which of the project's environments.")
    skip_payload_upload: bool | None = Field(default=None, description="Use the payload that is on the cluster.")
    remote_payload_path: str | None = Field(default=None, description="Absolute path of the payload on the cluster.")
    extra_files: list[str] | None = Field(default=None, description="Files to put beside the payload.")
    extra_slurm_opts: dict[str, Any] | None = Field(default=None, description="Options for sbatch.")
    inputs: list[str] | None = Field(default=None, description="Files to read, by path or glob.")
    outputs: list[str] | None = Field(default=None, description="Globs of what is fetched afterwards.")
    outputs_dir: str | None = Field(default=None, description="Where on this machine it goes.")
    keep_on_cluster: list[str] | None = Field(default=None, description="Globs of what stays on the cluster.")
    scratch: bool | None = Field(default=None, description="Work in a directory of the node.")


class ComputeResource(ConfigurableResource[Any]):
    """Runs an asset's payload on this machine or as a Slurm job.

    Precedence, for everything: the call, then the launchpad (`SlurmRunConfig`), then the asset's metadata, then
    this resource, then what is built in.
    """

    # A typo in a field's name is refused, not dropped.
    model_config = ConfigDict(extra="forbid")

    mode: Literal["local", "slurm"] = Field(description="`local` runs on this machine, `slurm` one job for each call.")
    slurm: SlurmResource | None = Field(default=None, description="The cluster, for mode `slurm`.")
    default_launcher: ComputeLauncher | None = Field(
        default=None, description="How payloads are started; `BashLauncher()` by default."
    )
    debug_mode: bool = Field(default=False, description="Keep all run directories for inspection.")
    cleanup_on_failure: bool = Field(
        default=True, description="Of a failed run keep only script, status and the end of stderr."
    )
    environment: Environment | None = Field(
        default=None,
        description="What payloads run in on the cluster; by default the project's, where it has a lock file.",
    )
    pre_deployed_env_path: str | None = Field(
        default=None, description="An environment that is on the cluster already, in place of `environment`."
    )
    default_skip_payload_upload: bool = Field(
        default=False, description="Take payloads from `scripts/` in the pre-deployed environment."
    )
    default_environment_name: str | None = Field(
        default=None, description="Which of the project's environments: pixi's, or a dependency group or extra of uv's."
    )
    auto_detect_platform: bool = Field(
        default=True, description="Pack for the login node's platform; if not, and without `pack_platform`, `linux-64`."
    )
    pack_platform: str | None = Field(default=None, description="Pack for this platform (`linux-64`, `linux-aarch64`).")
    pack_on_remote: bool = Field(
        default=False, description="Pack or build on the login node, where that has a network."
    )
    cache_inject_globs: list[str] | None = Field(
        default=None, description="Files that pixi's pack command packs besides; a change of them is noticed."
    )
    reattach: Literal["retry", "asset", "never"] = Field(
        default="retry",
        description="Which jobs of earlier processes are taken up again: `retry`, those of the attempts before in the "
        "same run and its retries; `asset`, also a live job of an abandoned materialisation of the same asset and "
        "partition; `never`, none.",
    )

    retry_policy: SlurmRetryPolicy | None = Field(
        default=None, description="Which ends of a job are tried again within a call, and how."
    )
    continue_exit_code: ExitCode | None = Field(
        default=None, description="With this exit code a payload asks to go on in a further job."
    )
    max_continuations: NotNegative = Field(default=100, description="How many further jobs there may be.")

    max_node_hours: float | None = Field(
        default=None, description="Refuse a job that asks for more: its nodes times its walltime.", gt=0
    )

    def setup_for_execution(self, context: InitResourceContext) -> None:
        """Say in the run's log which process works on it: `dagster-slurm reconcile` can tell when it is gone."""
        if self.mode != "local" and context.instance is not None and context.run is not None:
            take_lease(context.instance, context.run)

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        """Remove the run directories of the steps that have succeeded."""
        TIDY.look()

    def run(
        self,
        context: StepContext,
        payload_path: PathLike,
        launcher: ComputeLauncher | None = None,
        extras: Mapping[str, Any] | None = None,
        extra_env: Mapping[str, str] | None = None,
        extra_slurm_opts: Mapping[str, object] | None = None,
        config: SlurmRunConfig | None = None,
        extra_files: ExtraFiles | None = None,
        environment_name: str | None = None,
        force_env_push: bool | None = None,
        name: str | None = None,
        skip_payload_upload: bool | None = None,
        remote_payload_path: str | None = None,
        slurm_metrics: Sequence[SlurmMetric | str] | None = None,
        metrics_collector: MetricsCollector | None = None,
        retry_policy: SlurmRetryPolicy | None = None,
        continue_exit_code: int | None = None,
        inputs: InputsOption | None = None,
        outputs: OutputsOption | None = None,
        outputs_dir: PathLike | None = None,
        keep_on_cluster: Sequence[str] | None = None,
        scratch: bool | str | None = None,
    ) -> SlurmCompletedInvocation:
        """Run the payload and wait for its end; its logs and messages arrive in Dagster meanwhile.

        Args:
            context: The context of the asset, asset check or op.
            payload_path: A `.py` or `.sh` file, a program or script with a `#!` line, a directory with `__main__.py`,
                `-m package.module` or `package.module:function`.
            launcher: How to start it; by default `default_launcher`, which says what one of the same type leaves open.
            extras: Values for the payload, found in its Pipes context. JSON-serialisable.
            extra_env: Environment variables of the payload. They reach the cluster in a file that only the user
                can read, never in a command line.
            extra_slurm_opts: Fields of `SlurmQueueConfig`, and any other long option of sbatch.
            config: What was chosen in the launchpad.
            extra_files: Files and directories to put beside the payload: a list, or a mapping from the name there.
            environment_name: Which of the project's environments.
            force_env_push: Install the environment anew, whatever is there.
            name: Tells this call from others in the same step. Calls that run at the same time need one.
            skip_payload_upload: Use the payload that is on the cluster at `remote_payload_path`.
            remote_payload_path: Absolute path of the payload on the cluster.
            slurm_metrics: Which figures to attach to the results; all by default.
            metrics_collector: Adds metadata of its own.
            retry_policy: Which ends of the job are tried again, in place of the resource's.
            continue_exit_code: With this exit code the payload asks to go on in a further job.
            inputs: Paths, globs and directories of this machine; or a mapping from the name in the working directory
                to one of those, or to a `RemotePath`. The payload can read them, and not write to them.
            outputs: Globs in the working directory, fetched after success; or a mapping from a glob to a directory
                of this machine.
            outputs_dir: Where the outputs of a list go; by default below Dagster's storage, by asset and partition.
            keep_on_cluster: Globs of what stays on the cluster, for other jobs: `kept` of what is returned.
            scratch: Work in a directory of the node: True, or the directory below which it is made.

        Returns:
            Dagster's own: `get_results()`, `get_materialize_result()`, `get_asset_check_result()`,
            `get_custom_messages()`; and `outputs`, `kept` and `get_kept_result()`.

        Raises:
            InvalidRequestError: Something about the request is wrong; nothing was uploaded or submitted.
            ConfigurationError: The resource is incomplete.
            dagster.Failure: The payload did not succeed; the cause is a `JobFailedError`, or an `OutputNotFoundError`.
        """
        arguments = Arguments(
            payload_path=payload_path,
            launcher=launcher,
            extras=extras,
            extra_env=extra_env,
            extra_slurm_opts=extra_slurm_opts,
            config=config,
            extra_files=extra_files,
            environment_name=environment_name,
            force_env_push=force_env_push,
            name=name,
            skip_payload_upload=skip_payload_upload,
            remote_payload_path=remote_payload_path,
            slurm_metrics=slurm_metrics,
            metrics_collector=metrics_collector,
            retry_policy=retry_policy,
            continue_exit_code=continue_exit_code,
            inputs=inputs,
            outputs=outputs,
            outputs_dir=outputs_dir,
            keep_on_cluster=keep_on_cluster,
            scratch=scratch,
        )
        stop_in_dry_run(lambda: job_plan(self, Step.of_any(context), arguments))
        call = Call(self, Step.of(context), arguments)
        if self.mode == "local":
            return LocalPipesClient(keep_directories=self.debug_mode).run(context=context, **vars(call.work_here()))
        job = call.job()
        return self._client(call.slurm(), job.environment).run(context=context, **job.arguments())

    def plan(
        self,
        context: StepContext | None = None,
        payload_path: PathLike | None = None,
        *,
        partitions: int | None = None,
        max_parallel: int | None = None,
        **arguments: Any,
    ) -> JobPlan:
        """Say what `run` would do. Nothing is uploaded, installed or submitted; Slurm uses up a job id.

        Args:
            context: The context of a step; outside of one None, or what `build_asset_context()` makes.
            payload_path: As for `run`; it has to be given.
            partitions: Say what `run_partitions` would do with so many; None for `run`.
            max_parallel: As for `run_partitions`.
            arguments: Those of `run`, by their names.

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
            raise TypeError("plan() needs a payload_path, as run() does")
        tasks = Tasks(partitions, max_parallel) if partitions is not None else None
        return job_plan(self, Step.of_any(context), Arguments(payload_path, **arguments), tasks)

    def run_partitions(
        self, context: StepContext, payload_path: PathLike, max_parallel: int | None = None, **arguments: Any
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
            arguments: Those of `run`, by their names, but for `outputs`, `keep_on_cluster` and `scratch`.

        Returns:
            `get_materialize_result()` and `get_results()`, which the asset returns or yields, and `partitions`.

        Raises:
            InvalidRequestError: Something about the request is wrong; nothing was uploaded or submitted.
            ConfigurationError: The resource is incomplete.
            dagster.Failure: Partitions have failed: its text and metadata name them. The others are materialised.
        """
        given = Arguments(payload_path, **arguments)
        stop_in_dry_run(lambda: job_plan(self, Step.of(context), given, Tasks.of(Step.of(context), max_parallel)))
        step = Step.of(context)
        call = Call(self, step, given)
        if self.mode == "local":
            return LocalPipesClient(keep_directories=self.debug_mode).run_partitions(
                context=context, name=arguments.get("name"), **vars(call.work_here())
            )
        job = call.job()
        affordable(job.request, self.max_node_hours, tasks=len(partitions_of(step)))
        return self._client(call.slurm(), job.environment).run_partitions(
            context=context, max_parallel=max_parallel, **job.arguments()
        )

    def _client(self, slurm: SlurmResource, environment: Provider) -> SlurmPipesClient:
        return SlurmPipesClient(
            slurm.connect(),
            environment=environment,
            debug_mode=self.debug_mode,
            cleanup_on_failure=self.cleanup_on_failure,
            reattach=self.reattach,
        )
