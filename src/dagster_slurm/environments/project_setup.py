"""Environments that a command of the project makes on the login node: several at once, each by its name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from dagster_slurm.cluster.content_store import Part
from dagster_slurm.environments import Preview, Site, sources
from dagster_slurm.environments.cache import EnvironmentCache
from dagster_slurm.environments.pixi_command import matching
from dagster_slurm.environments.recipe import Activation, Needs, Pack, Recipe, Tell, activate_deployed
from dagster_slurm.environments.target import Target
from dagster_slurm.errors import EnvironmentNotFoundError, InvalidRequestError
from dagster_slurm.transport.shell import quote, shell_file

DEFAULT_NAME = "default"
_ARCHIVE = "project.tar.gz"


@dataclass(frozen=True)
class SetupRecipe(Recipe):
    """What the command makes, once for each content of its inputs.

    Args:
        project: The directory of the project.
        command: The program and its arguments, run in the copy of the inputs.
        variables: Its environment variables, besides those of the login.
        input_globs: Which files it needs, as seen from the project: they are sent, and another content makes others.
    """

    project: Path
    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    input_globs: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"what `{' '.join(self.command)}` sets up"

    def needs(self) -> Needs:
        return Needs()

    @cached_property
    def _archive(self) -> bytes:
        return sources.archive(sources.in_project(self.project, self._files()))

    def _files(self) -> list[Path]:
        what = "project_setup_input_globs"
        found = {name for pattern in self.input_globs for name in matching(self.project, pattern, what)}
        outside = sorted(name for name in found if Path(name).is_absolute() or ".." in Path(name).parts)
        if outside:
            raise InvalidRequestError(
                f"{outside[0]} of {what} is not within the project {self.project}",
                hint="The command runs in a copy of the project's directory: name files within it.",
            )
        return sorted(map(Path, found))

    def key_inputs(self, target: Target) -> Mapping[str, str]:
        del target
        variables = json.dumps(dict(self.variables), sort_keys=True)
        inputs = hashlib.sha256(self._archive).hexdigest()
        return {"command": json.dumps(self.command), "variables": variables, "inputs": inputs}

    def pack(self, target: Target, tell: Tell) -> Pack:
        del target, tell
        exports = [f"export {name}={quote(value)}" for name, value in sorted(self.variables.items())]
        run = f"set_up_project {' '.join(map(quote, self.command))}"
        install = "\n".join((shell_file("dagster_slurm.environments", "set_up_project.sh"), *exports, run))
        return Pack((Part.of(_ARCHIVE, self._archive),), install)


@dataclass(frozen=True)
class SetUp:
    """One of the environments that the command makes.

    Args:
        recipe: The command.
        name: Which; `default` is also the only one, if it makes but one.
    """

    recipe: SetupRecipe
    name: str = DEFAULT_NAME

    @property
    def title(self) -> str:
        """The recipe's, and which."""
        return f"{self.name} of {self.recipe.title}"

    def provide(self, site: Site) -> Activation:
        """Run the command if nobody has, and look which layout it is."""
        made = EnvironmentCache(site.cluster, site.tell).provide(self.recipe, force=site.force)
        return self._within(site, made)

    def preview(self, site: Site) -> Preview:
        """What `provide` would come to."""
        seen = EnvironmentCache(site.cluster, site.tell).preview(self.recipe, force=site.force)
        if seen.is_there:
            return replace(seen, activation=self._within(site, seen.activation))
        path = f"{seen.activation.path}/environments/{self.name}"
        return replace(seen, activation=activate_deployed(path, "packed"))

    def _within(self, site: Site, made: Activation) -> Activation:
        path = f"{made.path}/environments/{self.name}"
        try:
            return activate_deployed(path, site.cluster.environment_layout(path))
        except EnvironmentNotFoundError as error:
            raise EnvironmentNotFoundError(
                f"{self.recipe.title[0].upper()}{self.recipe.title[1:]} has no usable environment {self.name!r}",
                hint=f"The command has to make {path} ($DAGSTER_SLURM_ENV_BASE_DIR/{self.name}): {error.hint}",
                host=site.cluster.host,
            ) from error
