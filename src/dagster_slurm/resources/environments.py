"""What payloads run in, as resources that users choose, or write themselves."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import ConfigurableResource, EnvVar
from pydantic import ConfigDict, Field, field_validator

from dagster_slurm.environments import (
    ClusterPython,
    Container,
    Installed,
    Modules,
    Needs,
    Pack,
    Provider,
    Recipe,
    Runtime,
    Target,
    Tell,
    with_modules,
)
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.resources import NamedFields

if TYPE_CHECKING:
    from dagster_slurm.environments.pixi import PixiRecipe
    from dagster_slurm.environments.uv import UvRecipe

_DEFAULT_NAME = "default"


class Environment(NamedFields, ConfigurableResource[Any], Recipe):
    """Base of all environments.

    To write one that is packed here and installed on the cluster, override `title`, `needs`, `key_inputs` and `pack`:
    it is then installed once for each key. To write one that is there already, override `provider`.
    """

    model_config = ConfigDict(extra="forbid")

    @property
    def title(self) -> str:
        """What it is, in a few words, for the run's log."""
        return type(self).__name__

    def needs(self) -> Needs:
        """What has to be found on the cluster: an interpreter, lines of shell before it, a platform."""
        return Needs()

    def key_inputs(self, target: Target) -> Mapping[str, str]:
        """What makes it another environment: digests of lock files and sources, commands; no paths, no times."""
        raise NotImplementedError(f"{type(self).__name__} has to override `key_inputs`, or `provider`")

    def pack(self, target: Target, tell: Tell) -> Pack:
        """What is sent, and the lines of bash that make `activate.sh` and `env/bin/python` of it on the cluster."""
        raise NotImplementedError(f"{type(self).__name__} has to override `pack`, or `provider`")

    def provider(self) -> Provider:
        """How it is provided: installed, by default."""
        return Installed(self)

    def named(self, name: str) -> Environment:
        """Another environment of the same project.

        Raises:
            InvalidRequestError: It has none of that name.
        """
        if name == _DEFAULT_NAME:
            return self
        raise InvalidRequestError(
            f"{type(self).__name__} has no environment named {name!r}",
            hint="`environment_name` chooses one of a pixi project, or a dependency group or extra of a uv project.",
        )


class UvEnvironment(Environment):
    """The packages that a project's `uv.lock` names, and the project itself: wheels, installed without network."""

    project_dir: str = Field(
        default=".", description="Directory of `pyproject.toml`: a project's, or a workspace member's."
    )
    extras: list[str] = Field(default_factory=list, description="Extras of the project.")
    groups: list[str] = Field(default_factory=list, description="Dependency groups of the project.")
    python: str = Field(default="python3", description="The interpreter on the cluster: a name on the PATH, or a path.")
    setup_commands: list[str] = Field(
        default_factory=list, description="Lines of bash to run before, such as `module load python/3.11`."
    )
    platform: str | None = Field(
        default=None, description="Its platform (`linux-64`, `linux-aarch64`); the login node's by default."
    )
    build_on_remote: bool = Field(
        default=False, description="Have uv on the login node, which needs a network, fetch and build everything."
    )

    def provider(self) -> Provider:
        return Installed(self.recipe())

    def recipe(self) -> UvRecipe:
        """As plain values."""
        from dagster_slurm.environments.uv import UvRecipe  # noqa: PLC0415 - one of several kinds

        return UvRecipe(
            project=Path(self.project_dir).expanduser().absolute(),
            extras=tuple(self.extras),
            groups=tuple(self.groups),
            python=self.python,
            setup=with_modules(tuple(self.setup_commands)),
            platform=self.platform,
            build_on_remote=self.build_on_remote,
        )

    def named(self, name: str) -> Environment:
        """With the dependency group or extra of that name besides."""
        if name == _DEFAULT_NAME:
            return self
        kind = self.recipe().kind_of(name)
        return self.model_copy(update={kind: [*getattr(self, kind), name]})


class PixiEnvironment(Environment):
    """An environment of a pixi project, packed by `pixi-pack`."""

    project_dir: str = Field(default=".", description="Directory of the manifest and `pixi.lock`.")
    environment: str = Field(default="default", description="Which of the project's environments.")
    platform: str | None = Field(default=None, description="Its platform; the login node's by default.")
    pack_cmd: list[str] | None = Field(
        default=None,
        description="The command that packs it, in place of `pixi-pack`: a list, or a string that is split as a shell "
        "does it; `{output}`, `{platform}`, `{environment}`, `{manifest}` and `{cache}` are filled in.",
    )
    cache_inject_globs: list[str] | None = Field(
        default=None, description="Files that the command packs besides, so that a change of them is noticed."
    )
    pack_on_remote: bool = Field(default=False, description="Pack it on the login node, where pixi has to be.")

    @field_validator("pack_cmd", mode="before")
    @classmethod
    def _pack_cmd_as_words(cls, value: Any) -> Any:
        return command_words(value, "pack_cmd")

    def provider(self) -> Provider:
        return Installed(self.recipe())

    def recipe(self) -> PixiRecipe:
        """As plain values."""
        from dagster_slurm.environments.pixi import PixiRecipe  # noqa: PLC0415 - one of several kinds

        return PixiRecipe(
            project=Path(self.project_dir).expanduser().absolute(),
            environment=self.environment,
            platform=self.platform,
            pack_cmd=None if self.pack_cmd is None else tuple(self.pack_cmd),
            cache_inject_globs=tuple(self.cache_inject_globs or ()),
            pack_on_remote=self.pack_on_remote,
        )

    def named(self, name: str) -> Environment:
        return self.model_copy(update={"environment": name})


def command_words(value: Any, what: str) -> Any:
    """A command as a list of words, if it is a string.

    Raises:
        InvalidRequestError: It is none that a shell could split, or is empty.
    """
    if isinstance(value, EnvVar):
        raise InvalidRequestError(
            f"{what} cannot be an EnvVar, since it is a list of words", hint="Give it `EnvVar(...).get_value()`."
        )
    if not isinstance(value, str):
        return value
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise InvalidRequestError(f"{what} is {value!r}, which cannot be split into words: {error}") from error
    if not words:
        raise InvalidRequestError(f"{what} is empty", hint="Leave it out, or name a command.")
    return words


class ModuleEnvironment(Environment):
    """What the site provides, after some lines of shell."""

    setup_commands: list[str] = Field(description="Lines of bash, such as `module load python/3.11`.")
    python: str = Field(default="python3", description="The interpreter, as a shell finds it after them.")
    check_on_login: bool = Field(default=True, description="Try them on the login node before anything is submitted.")

    def provider(self) -> Provider:
        return Modules(tuple(self.setup_commands), self.python, self.check_on_login)


class ContainerEnvironment(Environment):
    """A container's image on the cluster, around any launcher."""

    image: str = Field(description="A path on the cluster, or an address such as `docker://...`.")
    binds: dict[str, str] = Field(default_factory=dict, description="Directories that are seen in it, and where.")
    gpus: bool = Field(default=False, description="Whether the host's NVIDIA driver is seen in it.")
    runtime: Runtime = Field(default="apptainer", description="`apptainer`, `singularity`, `pyxis`, or Slurm's own.")
    python: str = Field(default="python3", description="The interpreter in it.")

    def provider(self) -> Provider:
        return Container(self.image, dict(self.binds), self.gpus, self.runtime, self.python)


class NoEnvironment(Environment):
    """The cluster's own `python3`, or no Python at all, whatever lock file the project has."""

    def provider(self) -> Provider:
        return ClusterPython()

    def named(self, name: str) -> Environment:
        """None, whatever name the resource has for the others."""
        del name
        return self


def found_environment(directory: Path) -> Environment | None:
    """The environment of the project that a directory belongs to, if it has a lock file: pixi's, or uv's."""
    for each in (directory, *directory.parents):
        if (each / "pixi.lock").is_file():
            return PixiEnvironment(project_dir=str(each))
        if (each / "uv.lock").is_file():
            from dagster_slurm.environments.uv_export import member_at  # noqa: PLC0415 - one of several kinds

            return UvEnvironment(project_dir=str(member_at(directory, each)))
    return None
