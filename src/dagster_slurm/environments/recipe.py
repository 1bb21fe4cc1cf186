"""What an environment is, to those who install it: what it needs, what makes it another one, and how it is packed."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dagster_slurm.cluster.content_store import Part
from dagster_slurm.environments.target import Target
from dagster_slurm.transport.shell import quote

# What a login sets for its own Python shadows or breaks that of an environment: `PYTHONPATH` of a profile, a conda
# that is active, modules in ~/.local. What comes after this line does count: modules, the activation, `extra_env`.
ISOLATED = 'unset -v PYTHONPATH PYTHONHOME "${!CONDA_@}"; export PYTHONNOUSERSITE=1'


@dataclass(frozen=True)
class Activation:
    """How an environment is entered.

    Args:
        setup: Lines of bash to run before the payload, already quoted.
        python: The interpreter, as the payload's shell finds it.
        description: For the log.
        wrapper: A program and its arguments in front of the payload's, such as a container's runtime.
        path: Its directory on the cluster, if it has one of its own.
    """

    setup: tuple[str, ...]
    python: str
    description: str
    wrapper: tuple[str, ...] = ()
    path: str | None = None


CLUSTER_PYTHON = Activation((), "python3", "the cluster's own python3")


def activate_deployed(path: str, layout: str, *, setup: tuple[str, ...] = ()) -> Activation:
    """Enter an environment on the cluster.

    Args:
        path: Where it lies.
        layout: One of the two that `SlurmCluster.environment_layout` knows.
        setup: Lines of bash to run before.
    """
    description = f"the environment {path}"
    if layout == "packed":
        entered: tuple[str, ...] = (f". {quote(f'{path}/activate.sh')}",)
        python = f"{path}/env/bin/python"
    else:
        entered = (f"export VIRTUAL_ENV={quote(path)}", f'export PATH={quote(f"{path}/bin")}:"$PATH"')
        python = f"{path}/bin/python"
    return Activation((ISOLATED, *setup, *entered), python, description, path=path)


# The layout of what is installed; a change makes all keys others.
_LAYOUT = "1"
_KEY_DIGITS = 20
_SAID_LINES = 15

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Needs:
    """What has to be found on the cluster before an environment can be chosen and installed.

    Args:
        python: The interpreter, by name or path, as a shell there finds it; None for none.
        setup: Lines of bash to run before, such as `module load python/3.11`.
        platform: What it is for, by conda's name (`linux-64`); the login node's own if None.
        program: A program to look for on the PATH, and whose version to ask for; None for none.
    """

    python: str | None = None
    setup: tuple[str, ...] = ()
    platform: str | None = None
    program: str | None = None


@dataclass(frozen=True)
class Listed:
    """A part, as far as it is known before anything is packed.

    Args:
        name: Its name, or what is made into it.
        sha256: Of its content, in hexadecimal; empty if that is not known yet.
        size_bytes: Of its content; 0 if that is not known yet.
    """

    name: str
    sha256: str = ""
    size_bytes: int = 0

    @classmethod
    def of(cls, part: Part) -> Listed:
        """A part that is known."""
        return cls(part.name, part.sha256, part.size_bytes)


@dataclass(frozen=True)
class Pack:
    """What is sent, and how it becomes an environment.

    Args:
        parts: What is sent.
        install: Lines of bash that make `activate.sh` and `env/bin/python` in the working directory. `$parts` is the
            directory of the parts, `$python` the interpreter that was found. It runs with `set -e`.
    """

    parts: tuple[Part, ...]
    install: str


@dataclass(frozen=True)
class Locked:
    """What a lock has, on whatever target.

    Args:
        names: The packages, as PyPA and conda write them.
        adding: The command that adds one, whose name follows.
        is_conda: Whether that command takes names of conda.
    """

    names: frozenset[str]
    adding: str
    is_conda: bool = False


class Recipe(ABC):
    """How an environment is made. Users may write their own."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is, in a few words, for the log."""

    @abstractmethod
    def needs(self) -> Needs:
        """What has to be found on the cluster."""

    @abstractmethod
    def key_inputs(self, target: Target) -> Mapping[str, str]:
        """What makes it another environment: digests, commands, options. Fast, and the same in every checkout.

        Raises:
            InvalidRequestError: Something about it is wrong, or does not go with the target.
        """

    @abstractmethod
    def pack(self, target: Target, tell: Tell) -> Pack:
        """Say what is to be sent; may take its time, and tells the run's log what it does.

        Raises:
            EnvironmentBuildError: It cannot be packed.
        """

    def listed(self, target: Target) -> tuple[Listed, ...] | None:
        """What `pack` would say is to be sent; None if that is known only when it is packed."""
        del target
        return None

    def locked(self) -> Locked | None:
        """What it can have; None if no lock tells."""
        return None

    def fallback(self) -> Recipe | None:
        """What makes the same environment where `install` has ended with status 70; None if there is no other way."""
        return None

    def discard(self, target: Target) -> None:
        """Forget what `pack` has kept on this machine: it is to be made anew, or what was made of it does not work."""
        del target


def cache_key(recipe: Recipe, target: Target) -> str:
    """The name of an environment on the cluster: the same inputs, the same name."""
    inputs = {"layout": _LAYOUT, "kind": type(recipe).__name__, **target.key_inputs(), **recipe.key_inputs(target)}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]


def last_lines(said: str) -> str:
    """The end of what a program says, for an error."""
    return "\n".join(said.strip().splitlines()[-_SAID_LINES:])
