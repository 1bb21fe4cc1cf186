"""The kinds of environment that are installed, so that one suite holds for each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dagster_slurm.environments import Recipe
from dagster_slurm.environments.pixi import PixiRecipe
from dagster_slurm.environments.uv import UvRecipe
from dagster_slurm.transport import Transport
from tests.support import forked
from tests.support.pixi import Channel, Conda, PixiProject

from .projects import Package, Project

PYTHON = "/usr/bin/python3"
# Version and size in bytes by name.
Packages = Mapping[str, tuple[str, int]]


class Kind(ABC):
    """A project of one kind.

    Args:
        directory: Where it lies.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abstractmethod
    def lock(self, packages: Packages) -> None:
        """Have the project depend on these packages."""

    @abstractmethod
    def recipe(self, directory: Path | None = None) -> Recipe:
        """Of the project, or of its copy."""


class Uv(Kind):
    """Wheels, from `uv.lock`."""

    def lock(self, packages: Packages) -> None:
        self.directory.mkdir(exist_ok=True)
        made = [Package(name, version, size_bytes=size) for name, (version, size) in packages.items()]
        Project(self.directory, made).write()

    def recipe(self, directory: Path | None = None) -> Recipe:
        return UvRecipe(directory or self.directory, python=PYTHON)


class Pixi(Kind):
    """Conda packages, from `pixi.lock`; what packs and unpacks them are stand-ins: tests/stand_ins."""

    def __init__(self, directory: Path, channel: Channel) -> None:
        super().__init__(directory)
        self.channel = channel

    def lock(self, packages: Packages) -> None:
        made = [Conda(name, version, size) for name, (version, size) in packages.items()]
        PixiProject(self.directory, self.channel).lock(made)

    def recipe(self, directory: Path | None = None) -> Recipe:
        return PixiRecipe(directory or self.directory)


class Builder:
    """A process that provides an environment."""

    def __init__(self, recipe: Recipe, base: str, transport: Transport) -> None:
        connection = getattr(transport, "connection", None)
        way = "LocalTransport()" if connection is None else f"OpenSSHTransport({connection!r})"
        program = f"""
import json
from pathlib import *
from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments.cache import EnvironmentCache
from dagster_slurm.environments.pixi import PixiRecipe
from dagster_slurm.environments.uv import UvRecipe
from dagster_slurm.transport import LocalTransport, OpenSSHTransport, SSHConnection
lines = []
cache = EnvironmentCache(SlurmCluster({way}, remote_base={base!r}), lines.append)
print(json.dumps([cache.provide({recipe!r}).path, lines]))
"""
        argv = [sys.executable, "-c", program]
        self._process = forked.start(argv, stdout=subprocess.PIPE, start_new_session=True)

    def ended(self) -> tuple[str, list[str]]:
        """The path of the environment, and what was said."""
        said, _ = self._process.communicate(timeout=120)
        assert self._process.returncode == 0
        path, lines = json.loads(said)
        return path, lines

    def kill(self) -> None:
        """Kill it, and what it has started."""
        with suppress(ProcessLookupError):  # it may have ended before
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
