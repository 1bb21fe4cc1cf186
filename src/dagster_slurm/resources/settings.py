"""Who can say what about a call: the call itself, the launchpad, the assets' metadata and the resource."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, cast

from dagster import AssetMaterialization, Config, ConfigurableResource, EnvVar
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from dagster_slurm.errors import ConfigurationError, InvalidRequestError
from dagster_slurm.job.retrying import RetryRules
from dagster_slurm.launchers.payload import ExtraFiles, PathLike
from dagster_slurm.pipes.partition_results import (
    ADVICE,
    COLLECTOR_FAULT,
    USAGE_PLOT,
    MetadataOf,
    SlurmOutcome,
    outcome_metadata,
)
from dagster_slurm.resources import LAUNCHPAD, ExitCode, NamedFields, NotNegative, as_choice, choice_of, unsaid
from dagster_slurm.resources.environments import Environment
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.resources.session import SlurmRunAllocationConfig, SlurmSessionResource
from dagster_slurm.resources.slurm import SlurmResource
from dagster_slurm.slurm.efficiency import Needs
from dagster_slurm.slurm.quantities import parse_memory_mib, parse_time_limit_seconds
from dagster_slurm.staging.plan import InputsOption, OutputsOption
from dagster_slurm.text import as_written, error_words
from dagster_slurm.work.spec import affordable


class SlurmRetryPolicy(NamedFields, ConfigurableResource[Any]):
    """Tries a job again that was over its memory or its walltime, was preempted, or lost its node.

    A payload that fails by itself is not tried again. Each attempt is a job of its own and stands in the run's log with
    its reason; for Dagster it is one step.
    """

    model_config = ConfigDict(extra="forbid")

    max_retries: NotNegative = Field(default=3, description="How many attempts there may be after the first.")
    memory_factor: float = Field(default=2.0, description="Factor for the memory after out of memory.", ge=1)
    max_mem: str | None = Field(default=None, description="The most memory to ask for; `M` is MiB.")
    time_factor: float = Field(default=2.0, description="Factor for the walltime after a time limit.", ge=1)
    max_time_limit: str | None = Field(default=None, description="The longest walltime to ask for, as `time_limit`.")
    exclude_failed_nodes: bool = Field(default=True, description="Leave out nodes that have failed.")

    def rules(self) -> RetryRules:
        """The policy as plain values.

        Raises:
            InvalidQuantityError: `max_mem` or `max_time_limit` cannot be read.
        """
        return RetryRules(
            max_retries=self.max_retries,
            memory_factor=self.memory_factor,
            max_mem_mib=None if self.max_mem is None else parse_memory_mib(self.max_mem),
            time_factor=self.time_factor,
            max_time_limit_seconds=(
                None if self.max_time_limit is None else parse_time_limit_seconds(self.max_time_limit)
            ),
            exclude_failed_nodes=self.exclude_failed_nodes,
        )


if TYPE_CHECKING:
    from dagster_slurm.resources.metrics_context import SlurmMetricsContext
    from dagster_slurm.session import SessionSpec

    MetricsCollector = Callable[[SlurmMetricsContext], Mapping[str, Any]]
else:
    # Most runs have no collector, and hints of types are looked up here when a component makes its schema.
    MetricsCollector = Callable[[Any], Mapping[str, Any]]
SlurmMetricsCallback = MetricsCollector
"""The same by the name that it has in 1.22."""


class SlurmMetric(str, enum.Enum):
    """The figures that are attached to a materialisation, by their names there. `_mb` means MiB."""

    JOB_ID = "slurm_job_id"
    STATE = "slurm_state"
    EXIT_CODE = "slurm_exit_code"
    ELAPSED_SECONDS = "elapsed_seconds"
    QUEUE_WAIT_SECONDS = "queue_wait_seconds"
    NODE_HOURS = "node_hours"
    CPU_EFFICIENCY_PCT = "cpu_efficiency_pct"
    CPU_EFFICIENCY = CPU_EFFICIENCY_PCT
    MAX_CPUS_USED = "max_cpus_used"
    MAX_MEMORY_MB = "max_memory_mb"
    MAX_MEMORY = MAX_MEMORY_MB
    MEMORY_EFFICIENCY_PCT = "memory_efficiency_pct"
    MAX_NODE_MEMORY_MB = "max_node_memory_mb"
    MEAN_NODE_MEMORY_MB = "mean_node_memory_mb"
    MAX_NODE_MEMORY_NAME = "max_node_memory_name"
    MAX_NODE_CPU_SECONDS = "max_node_cpu_seconds"
    MEAN_NODE_CPU_SECONDS = "mean_node_cpu_seconds"
    MAX_NODE_CPU_NAME = "max_node_cpu_name"
    REQUESTED_GPUS = "slurm_requested_gpus"
    ALLOCATED_GPUS = "slurm_allocated_gpus"
    GPU_UTILIZATION_PCT = "gpu_utilization_pct"
    MAX_GPU_MEMORY_MB = "max_gpu_memory_mb"
    GPU_ACCOUNTING_AVAILABLE = "slurm_gpu_accounting_available"
    GPU_UTILIZATION_AVG = "slurm_gpu_utilization_avg_pct"
    GPU_UTILIZATION_MAX = "slurm_gpu_utilization_max_pct"
    GPU_UTILIZATION_MAX_NODE = "slurm_gpu_utilization_max_node"
    GPU_MEMORY_MAX = "slurm_gpu_memory_max_mb"
    TRES_ACCOUNTING = "slurm_tres_accounting"
    ACCOUNTING_AVAILABLE = "slurm_accounting_available"
    ADVICE = ADVICE
    USAGE_PLOT = USAGE_PLOT


# Whatever is chosen: these tell of which job the others are, and how good they are.
_ALWAYS = frozenset({SlurmMetric.JOB_ID.value, SlurmMetric.ACCOUNTING_AVAILABLE.value})
# What sacct never tells.
_OF_LAUNCHERS = frozenset(metric.value for metric in SlurmMetric if "_node_" in metric.value)
_OF_SAMPLES = frozenset({SlurmMetric.MAX_CPUS_USED.value, SlurmMetric.ADVICE.value, SlurmMetric.USAGE_PLOT.value})


class Arguments(TypedDict, total=False):
    """The arguments of `ComputeResource.run`, `run_partitions` and `plan` that are given by name.

    Attributes:
        extras: Values for the payload, found in its Pipes context. JSON-serialisable.
        extra_env: Environment variables of the payload. They reach the cluster in a file that only the user can read,
            never in a command line.
        extra_slurm_opts: Fields of `SlurmQueueConfig`, and any other long option of sbatch.
        config: What was chosen in the launchpad.
        extra_files: Files and directories to put beside the payload: a list, or a mapping from the name there.
        environment_name: Which of the project's environments.
        force_env_push: Install the environment anew, even if it is installed.
        name: Distinguishes this call from others in the same step. Calls that run at the same time need one.
        skip_payload_upload: Use the payload that is on the cluster at `remote_payload_path`.
        remote_payload_path: Path of the payload on the cluster.
        slurm_metrics: Which figures to attach to the results; all by default.
        metrics_collector: Adds metadata of its own.
        retry_policy: Which ends of the job are tried again, in place of the resource's.
        continue_exit_code: With this exit code the payload asks to go on in a further job.
        inputs: Paths, globs and directories of this machine; or a mapping from the name in the working directory to
            one of those, or to a `RemotePath`. The payload can read them, and not write to them.
        outputs: Globs in the working directory, fetched after success; or a mapping from a glob to a directory of
            this machine.
        outputs_dir: Where the outputs of a list go; by default below Dagster's storage, by asset and partition.
        keep_on_cluster: Globs of what stays on the cluster, for other jobs: `kept` of what is returned.
        scratch: Work in a directory of the node: True, or the directory below which it is made.
    """

    extras: Mapping[str, Any] | None
    extra_env: Mapping[str, str] | None
    extra_slurm_opts: Mapping[str, object] | None
    config: SlurmRunConfig | None
    extra_files: ExtraFiles | None
    environment_name: str | None
    force_env_push: bool | None
    name: str | None
    skip_payload_upload: bool | None
    remote_payload_path: str | None
    slurm_metrics: Sequence[SlurmMetric | str] | None
    metrics_collector: MetricsCollector | None
    retry_policy: SlurmRetryPolicy | None
    continue_exit_code: int | None
    inputs: InputsOption | None
    outputs: OutputsOption | None
    outputs_dir: PathLike | None
    keep_on_cluster: Sequence[str] | None
    scratch: bool | str | None


class SlurmRunConfig(Config):
    """The choices for one run in the launchpad. A field that is not set is left to the asset and the resource."""

    force_env_push: bool | None = Field(default=None, description="Install the environment anew.")
    environment_name: str | None = Field(default=None, description="Which of the project's environments.")
    skip_payload_upload: bool | None = Field(default=None, description="Use the payload that is on the cluster.")
    remote_payload_path: str | None = Field(default=None, description="Path of the payload on the cluster.")
    extra_files: list[str] | None = Field(default=None, description="Files to put beside the payload.")
    extra_slurm_opts: dict[str, Any | None] | None = Field(default=None, description="Options for sbatch.")
    inputs: list[str] | None = Field(default=None, description="Files to read, by path or glob.")
    outputs: list[str] | None = Field(default=None, description="Globs of what is fetched afterwards.")
    outputs_dir: str | None = Field(default=None, description="Where on this machine it goes.")
    keep_on_cluster: list[str] | None = Field(default=None, description="Globs of what stays on the cluster.")
    scratch: bool | None = Field(default=None, description="Work in a directory of the node.")


def as_command(value: Any) -> Any:
    """A program and its arguments; a text is one for bash."""
    is_text = isinstance(value, str) and not isinstance(value, EnvVar)
    return ["bash", "-c", value] if is_text else value


FORMER_METHODS = (
    *("cleanup_deferred_run_dir", "get_pipes_client", "get_run_allocation_session", "register_cluster", "teardown"),
)
"""What a `ComputeResource` of 1.22 can do besides; `compat/fields.py` says what becomes of it."""


class ComputeDefaults(NamedFields, ConfigurableResource[Any]):
    """What a `ComputeResource` says."""

    model_config = ConfigDict(extra="forbid")

    mode: Annotated[str, choice_of("local", "slurm", "slurm-session", "slurm-hetjob"), AfterValidator(as_choice)] = (
        Field(
            description="`local` runs on this machine, `slurm` one job for each call, `slurm-session` each call in one "
            "allocation; `slurm-hetjob` says that calls of `run_hetjob` are one job, and is as `slurm` otherwise."
        )
    )
    slurm: Annotated[SlurmResource | None, LAUNCHPAD] = Field(
        default=None, description="The cluster, for any mode but `local`."
    )
    session: Annotated[SlurmSessionResource | None, LAUNCHPAD] = Field(
        default=None, description="The allocation that calls share, for mode `slurm-session`."
    )
    allocation_scope: Annotated[str, choice_of("asset", "run"), AfterValidator(as_choice)] = Field(
        default="asset",
        description="What has an allocation in mode `slurm`: each call, or `run`, all calls of a run as in "
        "`slurm-session`.",
    )
    run_allocation: Annotated[SlurmRunAllocationConfig | None, LAUNCHPAD] = Field(
        default=None, description='The allocation of a run, for `allocation_scope="run"`.'
    )
    default_launcher: ComputeLauncher | None = Field(
        default=None, description="How payloads are started; `BashLauncher()` by default."
    )
    debug_mode: bool = Field(default=False, description="Keep all run directories for inspection.")
    cleanup_on_failure: bool = Field(
        default=True, description="Of a failed run keep only script, status and the end of stderr."
    )
    environment: Environment | None = Field(
        default=None,
        description="The environment of payloads on the cluster; by default the project's, where it has a lock file.",
    )
    pre_deployed_env_path: str | None = Field(
        default=None,
        description="An environment on the cluster, in place of `environment`: `/shared/x`, `~/x`, `$WORK/x`.",
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
    reattach: Annotated[str, choice_of("retry", "asset", "never")] = Field(
        default="retry",
        description="Which jobs of earlier processes are taken up again: `retry`, those of the attempts before in the "
        "same run and its retries; `asset`, also a live job of an abandoned materialisation of the same asset and "
        "partition; `never`, none.",
    )
    retry_policy: Annotated[SlurmRetryPolicy | None, LAUNCHPAD] = Field(
        default=None, description="Which ends of a job are tried again within a call, and how."
    )
    continue_exit_code: ExitCode | None = Field(
        default=None, description="With this exit code a payload asks to go on in a further job."
    )
    max_continuations: NotNegative = Field(default=100, description="How many further jobs there may be.")
    max_node_hours: float | None = Field(
        default=None, description="Refuse a job that asks for more: its nodes times its walltime.", gt=0
    )

    project_setup_cmd: Annotated[list[str] | None, BeforeValidator(as_command)] = Field(
        default=None,
        description="A command that makes the project's environments on the login node, each by its name below "
        "`$DAGSTER_SLURM_ENV_BASE_DIR`; a text is run by bash.",
    )
    project_setup_env: dict[str, str] | None = Field(
        default=None, description="Environment variables of `project_setup_cmd`."
    )
    project_setup_input_globs: list[str] | None = Field(
        default=None, description="The files that `project_setup_cmd` needs; a change of them has it run anew."
    )
    default_extra_files: list[str] | None = Field(
        default=None, description="Files and directories that are put beside every payload, besides its own."
    )

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """A method of 1.22, or whatever pydantic makes of the name."""
            if name not in FORMER_METHODS:
                return super().__getattr__(name)
            from dagster_slurm.compat.fields import former_method  # noqa: PLC0415 - for code of 1.22 only

            return former_method(name)

    @property
    def shares_allocation(self) -> bool:
        """Whether calls are steps of one allocation."""
        return self.mode == "slurm-session" or (self.mode == "slurm" and self.allocation_scope == "run")

    def session_spec(self) -> SessionSpec:
        """The session whose steps calls are, where they share an allocation.

        Raises:
            InvalidRequestError: An option of it is wrong, or it costs more than is allowed.
            ConfigurationError: There is no cluster.
        """
        shape: SlurmRunAllocationConfig | SlurmSessionResource
        if self.mode == "slurm":
            shape = self.run_allocation or unsaid(SlurmRunAllocationConfig)
        else:
            shape = self.session or unsaid(SlurmSessionResource)
        spec = shape.spec(self.cluster())
        affordable(spec.request, self.max_node_hours)
        return spec

    def cluster(self) -> SlurmResource:
        """The cluster; in mode `local`, where none has to be named, one of which nothing is said.

        Raises:
            ConfigurationError: There is none.
        """
        of_session = self.session.slurm if self.session else None
        if self.slurm is None and of_session is None:
            if self.mode == "local":
                return unsaid(SlurmResource)
            raise ConfigurationError(
                f'ComputeResource(mode="{self.mode}") has no cluster', hint="Give it slurm=SlurmResource(...)."
            )
        return cast("SlurmResource", self.slurm or of_session)


@dataclass(frozen=True)
class ChosenMetadata:
    """From a job's outcome to metadata.

    Args:
        wanted: The figures that are attached; None for all that are known.
        collector: Adds metadata of its own.
        slurm: The cluster, for the collector.
    """

    wanted: frozenset[str] | None
    collector: MetricsCollector | None
    slurm: SlurmResource | None = None

    def __call__(self, outcome: SlurmOutcome) -> Mapping[str, Any]:
        """The metadata."""
        figures = outcome_metadata(outcome)
        wanted = None if self.wanted is None else self.wanted | _ALWAYS
        chosen = {name: figures[name] for name in figures if wanted is None or name in wanted}
        return {**self._collected(outcome, figures), **chosen}

    def _collected(self, outcome: SlurmOutcome, figures: Mapping[str, Any]) -> dict[str, Any]:
        """What a collector adds, and what is wrong with it: the job has succeeded, whatever a collector does."""
        if self.collector is None:
            return {}
        from dagster_slurm.resources.metrics_context import SlurmMetricsContext  # noqa: PLC0415 - for collectors only

        try:
            own = dict(self.collector(SlurmMetricsContext.of(outcome, figures, self.slurm)))
        except Exception as error:  # noqa: BLE001 - it is the user's
            return {COLLECTOR_FAULT: error_words(error)}
        faults = {name: fault for name, value in own.items() if (fault := _fault_of(name, value, figures))}
        kept = {name: value for name, value in own.items() if name not in faults}
        return {**kept, COLLECTOR_FAULT: "; ".join(faults.values())} if faults else kept

    @property
    def needs(self) -> Needs:
        """What of it sacct may have to tell."""
        return Needs(self.collector is not None, (self.wanted or frozenset()) - _OF_LAUNCHERS - _OF_SAMPLES)


def metadata_of(
    slurm_metrics: Sequence[SlurmMetric | str] | None,
    collector: MetricsCollector | None,
    slurm: SlurmResource | None = None,
) -> MetadataOf:
    """The function from a job's outcome to metadata.

    Args:
        slurm_metrics: The figures to attach; None for all that are known.
        collector: Adds metadata of its own; what it fails to give, or gives under the name of a figure, is left out.
        slurm: The cluster, for the collector.

    Raises:
        InvalidRequestError: A name is none of `SlurmMetric`.
    """
    wanted = None if slurm_metrics is None else frozenset(map(_metric, slurm_metrics))
    return ChosenMetadata(wanted, collector, slurm)


def _metric(name: SlurmMetric | str) -> str:
    known = [metric.value for metric in SlurmMetric]
    if name not in known:
        near = difflib.get_close_matches(str(name), known)
        raise InvalidRequestError(
            f"There is no metric {as_written(name)}",
            hint=f"Nearest known: {', '.join(near or known)}. See `SlurmMetric`.",
        )
    return SlurmMetric(name).value


def _fault_of(name: Any, value: Any, figures: Mapping[str, Any]) -> str:
    if name in figures:
        return f"{as_written(name)} is a figure of the job"
    try:
        AssetMaterialization("any", metadata={name: value})
    except Exception as error:  # noqa: BLE001 - Dagster has several
        return f"{as_written(name)} cannot be metadata: {error}"
    return ""
