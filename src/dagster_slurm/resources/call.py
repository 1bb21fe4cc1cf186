"""What one call of the compute resource comes to: the call, the launchpad, the asset and the resource, merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_slurm.environments import Deployed, Provider
from dagster_slurm.errors import ConfigurationError, InvalidRequestError
from dagster_slurm.job.retrying import Chain, RetryRules
from dagster_slurm.launchers import Planner, payload_from_path
from dagster_slurm.launchers.payload import ExtraFiles, PathLike, Payload, found_by_python
from dagster_slurm.metrics import MetricsCollector, SlurmMetric, metadata_of
from dagster_slurm.pipes.outcome import MetadataOf
from dagster_slurm.pipes.step import Step
from dagster_slurm.resources import asset_metadata
from dagster_slurm.resources.environment_choice import EnvironmentChoice
from dagster_slurm.resources.launchers import (
    BUILT_IN,
    BashLauncher,
    ChosenLauncher,
    ComputeLauncher,
    chosen_launcher,
    requested,
    requirements_of,
)
from dagster_slurm.resources.retry_policy import SlurmRetryPolicy
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.staging.plan import DataOptions, InputsOption, OutputsOption

if TYPE_CHECKING:
    from dagster_slurm.resources.compute import ComputeResource, SlurmRunConfig
    from dagster_slurm.resources.slurm import SlurmResource

CALL, LAUNCHPAD, METADATA, RESOURCE = "call", "launchpad", "asset metadata", "resource"
"""Where a setting may come from; the first that says something wins."""


@dataclass(frozen=True)
class Arguments:
    """What `ComputeResource.run` is called with; its docstring says what each means."""

    payload_path: PathLike
    launcher: ComputeLauncher | None = None
    extras: Mapping[str, Any] | None = None
    extra_env: Mapping[str, str] | None = None
    extra_slurm_opts: Mapping[str, object] | None = None
    config: SlurmRunConfig | None = None
    extra_files: ExtraFiles | None = None
    environment_name: str | None = None
    force_env_push: bool | None = None
    name: str | None = None
    skip_payload_upload: bool | None = None
    remote_payload_path: str | None = None
    slurm_metrics: Sequence[SlurmMetric | str] | None = None
    metrics_collector: MetricsCollector | None = None
    retry_policy: SlurmRetryPolicy | None = None
    continue_exit_code: int | None = None
    inputs: InputsOption | None = None
    outputs: OutputsOption | None = None
    outputs_dir: PathLike | None = None
    keep_on_cluster: Sequence[str] | None = None
    scratch: bool | str | None = None


@dataclass(frozen=True)
class Chosen:
    """A setting, and where it comes from: one of `CALL` to `BUILT_IN`."""

    value: Any
    source: str


@dataclass(frozen=True)
class Work:
    """What is to be run, wherever.

    Args:
        payload: What to start.
        plan: How to start it.
        extras: Values for the payload, found in its Pipes context.
        extra_env: Its environment variables.
        extra_files: What lies beside it.
        data: What it reads and leaves.
    """

    payload: Payload
    plan: Planner
    extras: Mapping[str, Any] | None
    extra_env: Mapping[str, str] | None
    extra_files: ExtraFiles | None
    data: DataOptions


@dataclass(frozen=True)
class Job:
    """The same as a job of a cluster.

    Args:
        work: What is to be run.
        request: What to ask Slurm for.
        environment: What it runs in.
        force_env_push: Whether that is installed anew.
        name: Tells this call from others in the same step.
        metadata: What the job adds to the metadata of the results.
        rules: Which ends are tried again within the call; None for none.
        chain: Whether, and when, the work goes on in a further job.
    """

    work: Work
    request: JobRequest
    environment: Provider
    force_env_push: bool
    name: str | None
    metadata: MetadataOf
    rules: RetryRules | None
    chain: Chain

    def arguments(self) -> dict[str, Any]:
        """What `SlurmPipesClient.run` is called with, besides the context; it knows its own environment."""
        own = {name: value for name, value in vars(self).items() if name not in ("work", "environment")}
        return {**vars(self.work), **own}


def affordable(request: JobRequest, max_node_hours: float | None, *, tasks: int = 1) -> JobRequest:
    """The request, if it does not ask for more than is allowed, all tasks of an array taken together.

    Raises:
        InvalidRequestError: It does, or has no walltime that tells.
    """
    asked = None if request.node_hours is None else request.node_hours * tasks
    if max_node_hours is None or (asked is not None and asked <= max_node_hours):
        return request
    what = f"{asked:g} node-hours" if asked is not None else "no walltime, so that nobody knows what it costs"
    times = f"{tasks} tasks of {request.nodes}" if tasks > 1 else f"{request.nodes}"
    raise InvalidRequestError(
        f"The job asks for {what} ({times} nodes), and max_node_hours is {max_node_hours:g}",
        hint="Lower `num_nodes` or `time_limit`, or raise `max_node_hours` of the ComputeResource.",
    )


class Call:
    """One call.

    Args:
        resource: Whose call it is.
        step: The step; None outside of one.
        arguments: What it is called with.
    """

    def __init__(self, resource: ComputeResource, step: Step | None, arguments: Arguments) -> None:
        self._resource = resource
        self._step = step
        self._arguments = arguments

    def work_here(self) -> Work:
        """What is to be run on this machine.

        Raises:
            InvalidRequestError: There is no such payload, or it cannot be run.
        """
        requirements_of(self.launcher.value, None)
        return self._work(payload_from_path(self._arguments.payload_path))

    def slurm(self) -> SlurmResource:
        """The cluster.

        Raises:
            ConfigurationError: The resource has none.
        """
        if self._resource.slurm is None:
            raise ConfigurationError(
                'ComputeResource(mode="slurm") has no cluster', hint="Give it slurm=SlurmResource(...)."
            )
        return self._resource.slurm

    def job(self) -> Job:
        """What is to be run as a job.

        Raises:
            InvalidRequestError: An option is wrong, there is no such payload, or it costs more than is allowed.
            ConfigurationError: The resource is incomplete.
        """
        arguments, resource = self._arguments, self._resource
        metadata = metadata_of(arguments.slurm_metrics, arguments.metrics_collector)
        environment = self.environment_choice().provider()
        policy = arguments.retry_policy or resource.retry_policy
        exit_code = self.chosen("continue_exit_code", resource=resource.continue_exit_code).value
        request = affordable(self.request()[0], resource.max_node_hours)
        return Job(
            self._work(self._payload(environment)),
            request,
            environment,
            self.chosen("force_env_push", asset_metadata.FORCE_ENV_PUSH, built_in=False).value,
            arguments.name,
            metadata,
            policy.rules() if policy else None,
            Chain(exit_code, resource.max_continuations),
        )

    def request(self) -> tuple[JobRequest, Mapping[str, str]]:
        """What to ask Slurm for, and of each option where it comes from.

        Raises:
            InvalidRequestError: An option is wrong, or the launcher refuses it.
        """
        layers = {
            **self.slurm().option_layers(),
            METADATA: asset_metadata.slurm_options(self._step),
            LAUNCHPAD: self._launchpad("extra_slurm_opts") or {},
            CALL: self._arguments.extra_slurm_opts or {},
        }
        return requested(self.launcher.value, layers)

    def environment_choice(self) -> EnvironmentChoice:
        """Which environment it gets."""
        return EnvironmentChoice(self._resource, self._step, self.chosen("environment_name").value)

    @cached_property
    def launcher(self) -> ChosenLauncher:
        """How the payload is started."""
        given = {
            CALL: self._arguments.launcher,
            LAUNCHPAD: self._launchpad("launcher"),
            RESOURCE: self._resource.default_launcher,
            BUILT_IN: BashLauncher(),
        }
        return chosen_launcher(given)

    def chosen(
        self, name: str, metadata_key: str | None = None, *, resource: object = None, built_in: object = None
    ) -> Chosen:
        """What holds for a setting: the first that says something.

        Args:
            name: Of the argument, and of the field in the launchpad.
            metadata_key: Of the asset's metadata; None if that cannot say it.
            resource: What the resource says.
            built_in: What holds if nobody says anything.
        """
        of_asset = asset_metadata.selected_metadata(self._step, metadata_key) if metadata_key else None
        said = {
            CALL: getattr(self._arguments, name),
            LAUNCHPAD: self._launchpad(name),
            METADATA: of_asset,
            RESOURCE: resource,
        }
        return next(
            (Chosen(value, who) for who, value in said.items() if value is not None), Chosen(built_in, BUILT_IN)
        )

    def _launchpad(self, name: str) -> Any:
        return getattr(self._arguments.config, name, None)

    def _work(self, payload: Payload) -> Work:
        return Work(
            payload,
            self.launcher.value.plan,
            self._arguments.extras,
            self._arguments.extra_env,
            self.chosen("extra_files", asset_metadata.EXTRA_FILES).value,
            DataOptions(**{name: self.chosen(name, key).value for name, key in DATA_KEYS.items()}),
        )

    def _payload(self, environment: Provider) -> Payload:
        """The payload, from this machine or on the cluster already."""
        path, remote = (
            self._arguments.payload_path,
            self.chosen("remote_payload_path", asset_metadata.PAYLOAD_PATH).value,
        )
        skipped = self.chosen(
            "skip_payload_upload",
            asset_metadata.SKIP_PAYLOAD_UPLOAD,
            built_in=remote is not None or self._resource.default_skip_payload_upload,
        ).value
        if not skipped or (remote is None and found_by_python(path)):
            # A module is not uploaded anyway: Python looks for it in the environment.
            return payload_from_path(path)
        if remote is None and isinstance(environment, Deployed):
            remote = f"{environment.path}/scripts/{Path(path).name}"
        if remote is None:
            raise ConfigurationError(
                "The payload is not to be uploaded, and it is not said where it is",
                hint="Give remote_payload_path, or the asset metadata slurm_payload_path, or pre_deployed_env_path, "
                "whose directory scripts/ has it.",
            )
        return payload_from_path(path, remote_path=remote)


DATA_KEYS: Mapping[str, str] = {
    "inputs": asset_metadata.INPUTS,
    "outputs": asset_metadata.OUTPUTS,
    "outputs_dir": asset_metadata.OUTPUTS_DIR,
    "keep_on_cluster": asset_metadata.KEEP_ON_CLUSTER,
    "scratch": asset_metadata.SCRATCH,
}
"""Arguments about data, and the asset metadata that says the same."""
