"""A cluster's file system to install environments on: this machine's own, or the sandbox's login node."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments.cache import EnvironmentCache
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.transport import LocalTransport, OpenSSHTransport, Transport
from tests.support.pixi import Channel, environment_for_tools

from ..ssh import connection_of
from .projects import Project


@pytest.fixture(autouse=True)
def _of_its_own(local_store: Path) -> None:
    """Every test here has one."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    directory = tmp_path / "project"
    directory.mkdir()
    return Project(directory)


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    """A conda channel, and its server."""
    made = Channel(tmp_path / "channel")
    yield made
    made.close()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins for pixi-pack are what is found, and nothing of this machine's own pixi."""
    for name, value in environment_for_tools(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["here", pytest.param("sandbox", marks=pytest.mark.cluster)])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    if request.param == "here":
        made: Transport = LocalTransport()
    else:
        sandbox: Sandbox = request.getfixturevalue("sandbox")
        made = OpenSSHTransport(connection_of(sandbox.env()))
    yield made
    made.close()


@pytest.fixture
def base(transport: Transport, tmp_path: Path) -> Iterator[str]:
    """`remote_base`: a new directory of the cluster."""
    made = transport.run('mktemp -d "$HOME/environments.XXXXXX"').text.strip()
    yield made
    transport.run('rm -rf -- "$1"', (made,))


@pytest.fixture
def cluster(transport: Transport, base: str) -> SlurmCluster:
    return SlurmCluster(transport, remote_base=base)


@pytest.fixture
def told() -> list[str]:
    """What was said in the run's log."""
    return []


@pytest.fixture
def cache(cluster: SlurmCluster, told: list[str]) -> EnvironmentCache:
    return EnvironmentCache(cluster, told.append)


@pytest.fixture
def run_in(transport: Transport) -> Callable[..., str]:
    """Runs a line of bash in an environment, as a batch script does."""

    def run(activation: object, line: str) -> str:
        setup = "\n".join(activation.setup)  # type: ignore[attr-defined]
        answer = transport.command(("env", f"PATH={os.defpath}", "bash", "-c", f"{setup}\n{line}"))
        assert answer.returncode == 0, answer.error_text
        return answer.text

    return run
