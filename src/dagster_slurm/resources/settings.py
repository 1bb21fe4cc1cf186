"""Who can say what about a call: the call itself, the launchpad, the assets' metadata and the resource."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from dagster import Config, ConfigurableResource, MetadataValue
from pydantic import ConfigDict, Field

from dagster_slurm.environments import Provider
from dagster_slurm.errors import ConfigurationError, InvalidRequestError
from dagster_slurm.launchers.payload import ExtraFiles, PathLike
from dagster_slurm.metrics import MetricsCollector, SlurmMetric
from dagster_slurm.pipes.step import Step
from dagster_slurm.resources.environments import Environment
from dagster_slurm.resources.field_types import ExitCode, NotNegative
from dagster_slurm.resources.launchers import BashLauncher, ComputeLauncher, chosen_launcher
from dagster_slurm.resources.retry_policy import SlurmRetryPolicy
from dagster_slurm.resources.slurm import SlurmResource
from dagster_slurm.staging.plan import InputsOption, OutputsOption
from dagster_slurm.work.spec import BUILT_IN, CALL, LAUNCHPAD, METADATA, RESOURCE, Said

OPTIONS_KEY = "slurm"


class Arguments(TypedDict, total=False):
    """What `ComputeResource.run`, `run_partitions` and `plan` take by name.

    Attributes:
        extras: Values for the payload, found in its Pipes context. JSON-serialisable.
        extra_env: Environment variables of the payload. They reach the cluster in a file that only the user can read,
            never in a command line.
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


class ComputeDefaults(ConfigurableResource[Any]):
    """What a `ComputeResource` says."""

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

    def cluster(self) -> SlurmResource:
        """The cluster.

        Raises:
            ConfigurationError: There is none.
        """
        if self.slurm is None:
            raise ConfigurationError(
                'ComputeResource(mode="slurm") has no cluster', hint="Give it slurm=SlurmResource(...)."
            )
        return self.slurm


def first_said(says: Mapping[str, Any]) -> Said:
    """What the first says that says anything.

    Args:
        says: By who says it; None from those that say nothing.
    """
    found = (Said(value, source) for source, value in says.items() if value is not None)
    return next(found, Said(None, BUILT_IN))


@dataclass(frozen=True)
class Setting:
    """A setting, and who besides the call, and the launchpad where that has a field of the name, can say it.

    Args:
        name: Of the argument, and of the field of the launchpad.
        metadata: The key of the assets' metadata.
        resource: The field of the resource.
        built_in: What holds if nobody says anything.
        merged: What holds, of all that is said.
        shown: What a plan shows of the value; None where it is shown otherwise.
        is_for_jobs: Whether it counts on a cluster alone.
    """

    name: str
    metadata: str | None = None
    resource: str | None = None
    built_in: Any = None
    merged: Callable[[Mapping[str, Any]], Said] = first_said
    shown: Callable[[Any], str] | None = str
    is_for_jobs: bool = False


def _kind(launcher: ComputeLauncher) -> str:
    return type(launcher).__name__


def _title(environment: Provider) -> str:
    return environment.title or "the cluster's own python3"


SETTINGS = (
    Setting("payload_path"),
    Setting("launcher", None, "default_launcher", BashLauncher(), chosen_launcher, _kind),
    Setting("environment", "slurm_environment", "environment", shown=_title, is_for_jobs=True),
    Setting("extra_files", "slurm_extra_files"),
    Setting("inputs", "slurm_inputs"),
    Setting("outputs", "slurm_outputs"),
    Setting("outputs_dir", "slurm_outputs_dir"),
    Setting("keep_on_cluster", "slurm_keep_on_cluster"),
    Setting("scratch", "slurm_scratch"),
    Setting("environment_name", "slurm_environment_name", "default_environment_name", is_for_jobs=True),
    Setting("force_env_push", "force_slurm_env_push", is_for_jobs=True),
    Setting("remote_payload_path", "slurm_payload_path", is_for_jobs=True),
    Setting("skip_payload_upload", "skip_slurm_payload_upload", "default_skip_payload_upload", is_for_jobs=True),
    Setting("retry_policy", None, "retry_policy", is_for_jobs=True),
    Setting("continue_exit_code", None, "continue_exit_code"),
    Setting(
        "pre_deployed_env_path", "slurm_pre_deployed_env_path", "pre_deployed_env_path", shown=None, is_for_jobs=True
    ),
    Setting("pack_cmd", "slurm_pack_cmd", shown=None, is_for_jobs=True),
)
"""Every setting that can be said in more than one place, or not by the call, in the order in which a plan shows them.

The options of sbatch are merged one by one: `extra_slurm_opts`, and `OPTIONS_KEY` in the assets' metadata."""


def settled(resource: ComputeDefaults, step: Step | None, arguments: Mapping[str, Any]) -> dict[str, Said]:
    """What holds for each setting: the first that says something wins.

    Args:
        resource: Whose call it is.
        step: The step; None outside of one.
        arguments: What it is called with.

    Raises:
        InvalidRequestError: The assets of the step say different things.
    """
    is_here = resource.mode == "local"
    return {row.name: _said(row, resource, step, arguments) for row in SETTINGS if not (is_here and row.is_for_jobs)}


def _said(row: Setting, resource: ComputeDefaults, step: Step | None, arguments: Mapping[str, Any]) -> Said:
    says = {
        CALL: arguments.get(row.name),
        LAUNCHPAD: getattr(arguments.get("config"), row.name, None),
        METADATA: metadata_of_assets(step, row.metadata) if row.metadata else None,
        # What is off there, or empty, is not said there.
        RESOURCE: (getattr(resource, row.resource) or None) if row.resource else None,
        BUILT_IN: row.built_in,
    }
    return row.merged(says)


def option_layers(
    resource: ComputeDefaults, step: Step | None, arguments: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """The options of sbatch, by who says them; the last wins.

    Raises:
        InvalidRequestError: Those in the metadata are not a mapping.
    """
    of_assets = metadata_of_assets(step, OPTIONS_KEY)
    if not isinstance(of_assets, (Mapping, type(None))):
        raise InvalidRequestError(
            f"The asset metadata {OPTIONS_KEY!r} is {of_assets!r}",
            hint='It has to be a mapping of options, such as {"partition": "gpu", "gres": "gpu:2"}.',
        )
    return {
        **resource.cluster().option_layers(),
        METADATA: of_assets or {},
        LAUNCHPAD: getattr(arguments.get("config"), "extra_slurm_opts", None) or {},
        CALL: arguments.get("extra_slurm_opts") or {},
    }


def metadata_of_assets(step: Step | None, key: str) -> Any:
    """A value in the metadata of the step's assets; None without one, and outside of a step.

    Raises:
        InvalidRequestError: The assets of one step say different things.
    """
    if step is None:
        return None
    values = [_plain(step.asset_metadata[asset][key]) for asset in step.asset_keys if key in step.asset_metadata[asset]]
    if any(value != values[0] for value in values):
        raise InvalidRequestError(
            f"The assets of one step differ in their metadata {key!r}: {values}",
            hint="They share one job; give it the same value on each, or on one of them alone.",
        )
    return values[0] if values else None


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, MetadataValue) else value
