"""Which environment a call gets, of all that can be said about it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from dagster_slurm.environments import ClusterPython, Deployed, Provider
from dagster_slurm.errors import ConfigurationError
from dagster_slurm.pipes.step import Step
from dagster_slurm.resources import asset_metadata
from dagster_slurm.resources.environments import (
    Environment,
    PixiEnvironment,
    UvEnvironment,
    command_words,
    found_environment,
)

_DEFAULT_PLATFORM = "linux-64"
PACK_PLATFORM = "SLURM_PACK_PLATFORM"
"""The variable that fills `pack_platform` where the field is not set."""


class Defaults(Protocol):
    """What a `ComputeResource` says of environments."""

    environment: Environment | None
    pre_deployed_env_path: str | None
    default_environment_name: str | None
    auto_detect_platform: bool
    pack_platform: str | None
    pack_on_remote: bool
    cache_inject_globs: list[str] | None


class EnvironmentChoice:
    """Precedence: the asset's metadata, then the resource, then a lock file of the project, then the cluster's Python.

    Args:
        defaults: The resource.
        step: The step; None outside of one.
        name: Which of the project's environments, if the call or the launchpad says so.
    """

    def __init__(self, defaults: Defaults, step: Step | None, name: str | None) -> None:
        self._defaults = defaults
        self._step = step
        self._name = name

    def provider(self) -> Provider:
        """The environment.

        Raises:
            ConfigurationError: Two are named at once, or metadata is not of its kind.
            InvalidRequestError: There is none of that name.
        """
        path, environment, _ = self._said()
        if path is not None and environment is not None:
            raise ConfigurationError(
                "Both a pre-deployed environment and another one are named", hint="Name one of them, or none."
            )
        if path is not None:
            return Deployed(path)
        environment = environment or found_environment(Path.cwd())
        command = self._of_asset(asset_metadata.PACK_CMD)
        if environment is None and command is not None:
            environment = PixiEnvironment()
        if environment is None:
            return ClusterPython()
        return self._adjusted(environment, command).provider()

    def described(self) -> tuple[str, str]:
        """What it is, and who says so: `asset metadata`, `resource` or `built-in`."""
        return self.provider().title or "the cluster's own python3", self._said()[2]

    def _said(self) -> tuple[str | None, Environment | None, str]:
        """The path of one that is there, or an environment, and who says so; neither if nobody does."""
        path, environment = self._of_asset(asset_metadata.PRE_DEPLOYED_ENV_PATH), self._of_asset_environment()
        if path is not None or environment is not None:
            return path, environment, "asset metadata"
        path, environment = self._defaults.pre_deployed_env_path, self._defaults.environment
        return path, environment, "built-in" if path is None and environment is None else "resource"

    def _of_asset(self, name: str) -> Any:
        return asset_metadata.selected_metadata(self._step, name)

    def _of_asset_environment(self) -> Environment | None:
        found = self._of_asset(asset_metadata.ENVIRONMENT)
        if found is None or isinstance(found, Environment):
            return found
        raise ConfigurationError(
            f"The asset metadata {asset_metadata.ENVIRONMENT!r} is {found!r}",
            hint="It has to be an environment, such as UvEnvironment(groups=['gpu']).",
        )

    def _adjusted(self, environment: Environment, command: Any) -> Environment:
        """With what the resource and the asset say besides; what the environment itself says comes first."""
        defaults = self._defaults
        platform = defaults.pack_platform or os.environ.get(PACK_PLATFORM) or None
        if platform is None and not defaults.auto_detect_platform:
            platform = _DEFAULT_PLATFORM
        said: dict[str, Any] = {}
        if isinstance(environment, PixiEnvironment):
            said = {
                "platform": platform,
                "pack_on_remote": defaults.pack_on_remote or None,
                "cache_inject_globs": defaults.cache_inject_globs,
            }
        elif isinstance(environment, UvEnvironment):
            said = {"platform": platform, "build_on_remote": defaults.pack_on_remote or None}
        update = {key: value for key, value in said.items() if value is not None and not getattr(environment, key)}
        if command is not None:
            if not isinstance(environment, PixiEnvironment):
                raise ConfigurationError(
                    f"The asset metadata {asset_metadata.PACK_CMD!r} is for pixi, and this is {environment.title}"
                )
            update["pack_cmd"] = command_words(command, f"The asset metadata {asset_metadata.PACK_CMD!r}")
        adjusted = environment.model_copy(update=update) if update else environment
        name = self._name or self._of_asset(asset_metadata.ENVIRONMENT_NAME) or defaults.default_environment_name
        return adjusted if name is None else adjusted.named(name)
