"""What one call of the compute resource asks for: the call, the launchpad, the assets and the resource, merged once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from dagster_slurm.environments import ClusterPython, Deployed, Provider, refuse_without
from dagster_slurm.errors import ConfigurationError
from dagster_slurm.job.retrying import Chain
from dagster_slurm.launchers import payload_from_path
from dagster_slurm.launchers.payload import Payload, found_by_python
from dagster_slurm.metrics import metadata_of
from dagster_slurm.pipes.step import Step
from dagster_slurm.resources.environments import (
    Environment,
    PixiEnvironment,
    UvEnvironment,
    command_words,
    found_environment,
)
from dagster_slurm.resources.launchers import ComputeLauncher, requested, requirements_of
from dagster_slurm.resources.settings import ComputeDefaults, option_layers, settled
from dagster_slurm.staging import DataOptions
from dagster_slurm.work.spec import BUILT_IN, METADATA, RESOURCE, Said, Tasks, WorkSpec

_DEFAULT_PLATFORM = "linux-64"
PACK_PLATFORM = "SLURM_PACK_PLATFORM"
"""The variable that fills `pack_platform` where the field is not set."""


def work_of(
    resource: ComputeDefaults, step: Step | None, arguments: Mapping[str, Any], tasks: Tasks | None = None
) -> WorkSpec:
    """What is to be run.

    Args:
        resource: Whose call it is.
        step: The step; None outside of one.
        arguments: What it is called with: the items of `Arguments`, `payload_path` and `launcher`.
        tasks: The partitions, for `run_partitions`.

    Raises:
        InvalidRequestError: An option is wrong, there is no such payload, or it costs more than is allowed.
        ConfigurationError: The resource is incomplete.
    """
    said = settled(resource, step, arguments)
    facts: dict[str, Any] = {name: arguments.get(name) for name in ("extras", "extra_env", "name")}
    facts["chain"] = Chain(said["continue_exit_code"].value, resource.max_continuations)
    if resource.mode == "local":
        requirements_of(said["launcher"].value, None)
        payload = payload_from_path(said["payload_path"].value)
    else:
        said["environment"] = _chosen_environment(said, resource)
        payload = _payload(said)
        facts |= _facts_of_job(resource, step, arguments, said)
    return WorkSpec.of(
        payload,
        extra_files=said["extra_files"].value,
        data=DataOptions(**{field.name: said[field.name].value for field in fields(DataOptions)}),
        plan=said["launcher"].value.plan,
        tasks=tasks,
        said=said,
        **facts,
    )


def _facts_of_job(
    resource: ComputeDefaults, step: Step | None, arguments: Mapping[str, Any], said: Mapping[str, Said]
) -> dict[str, Any]:
    request, option_sources = requested(said["launcher"].value, option_layers(resource, step, arguments))
    launcher: ComputeLauncher = said["launcher"].value
    refuse_without(said["environment"].value, launcher.requirements(request).packages, type(launcher).__name__)
    policy = said["retry_policy"].value
    return {
        "request": request,
        "option_sources": option_sources,
        "environment": said["environment"].value,
        "force_env_push": bool(said["force_env_push"].value),
        "rules": policy.rules() if policy else None,
        "metadata": metadata_of(arguments.get("slurm_metrics"), arguments.get("metrics_collector")),
        "max_node_hours": resource.max_node_hours,
    }


def _payload(said: Mapping[str, Said]) -> Payload:
    """The payload, from this machine or on the cluster already."""
    path, remote, skipped = (
        said[name].value for name in ("payload_path", "remote_payload_path", "skip_payload_upload")
    )
    if not (remote is not None if skipped is None else skipped) or (remote is None and found_by_python(path)):
        # A module is not uploaded anyway: Python looks for it in the environment.
        return payload_from_path(path)
    environment: Provider = said["environment"].value
    if remote is None and isinstance(environment, Deployed):
        remote = f"{environment.path}/scripts/{Path(path).name}"
    if remote is None:
        raise ConfigurationError(
            "The payload is not to be uploaded, and it is not said where it is",
            hint="Give remote_payload_path, or the asset metadata slurm_payload_path, or pre_deployed_env_path, "
            "whose directory scripts/ has it.",
        )
    return payload_from_path(path, remote_path=remote)


def _chosen_environment(said: Mapping[str, Said], defaults: ComputeDefaults) -> Said:
    """What a payload runs in, as a `Provider`, and who says so.

    Precedence: the asset's metadata, then the resource, then a lock file of the project, then the cluster's Python.

    Args:
        said: The settings.
        defaults: How the resource has environments packed.

    Raises:
        ConfigurationError: Two are named at once, or metadata is not of its kind.
        InvalidRequestError: There is none of that name.
    """
    named = [said[name] for name in ("pre_deployed_env_path", "environment")]
    source = next((who for who in (METADATA, RESOURCE) if who in {each.source for each in named}), BUILT_IN)
    path, environment = (each.value if each.source == source else None for each in named)
    if path is not None and environment is not None:
        raise ConfigurationError(
            "Both a pre-deployed environment and another one are named", hint="Name one of them, or none."
        )
    if environment is not None and not isinstance(environment, Environment):
        raise ConfigurationError(
            f"The asset metadata 'slurm_environment' is {environment!r}",
            hint="It has to be an environment, such as UvEnvironment(groups=['gpu']).",
        )
    if path is not None:
        return Said(Deployed(path), source)
    return Said(_provider(environment, said, defaults), source)


def _provider(environment: Environment | None, said: Mapping[str, Said], defaults: ComputeDefaults) -> Provider:
    command, name = said["pack_cmd"].value, said["environment_name"].value
    environment = environment or found_environment(Path.cwd()) or (None if command is None else PixiEnvironment())
    if environment is None:
        return ClusterPython()
    adjusted = _adjusted(environment, command, defaults)
    return (adjusted if name is None else adjusted.named(name)).provider()


def _adjusted(environment: Environment, command: Any, defaults: ComputeDefaults) -> Environment:
    """With what the resource and the asset say besides; what the environment itself says comes first."""
    platform = defaults.pack_platform or os.environ.get(PACK_PLATFORM) or None
    if platform is None and not defaults.auto_detect_platform:
        platform = _DEFAULT_PLATFORM
    says: dict[str, Any] = {}
    if isinstance(environment, PixiEnvironment):
        says = {
            "platform": platform,
            "pack_on_remote": defaults.pack_on_remote or None,
            "cache_inject_globs": defaults.cache_inject_globs,
        }
    elif isinstance(environment, UvEnvironment):
        says = {"platform": platform, "build_on_remote": defaults.pack_on_remote or None}
    update = {key: value for key, value in says.items() if value is not None and not getattr(environment, key)}
    if command is not None:
        if not isinstance(environment, PixiEnvironment):
            raise ConfigurationError(
                f"The asset metadata 'slurm_pack_cmd' is for pixi, and this is {environment.title}"
            )
        update["pack_cmd"] = command_words(command, "The asset metadata 'slurm_pack_cmd'")
    return environment.model_copy(update=update) if update else environment
