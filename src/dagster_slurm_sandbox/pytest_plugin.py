"""A pytest plugin with the fixture `sandbox`: `pytest_plugins = ["dagster_slurm.sandbox.pytest_plugin"]`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox.config import BASE_DIR_VARIABLE, DEFAULT_NAME, DEFAULT_USER, SandboxConfig, paths_of
from dagster_slurm_sandbox.programs import check_machine, require_packages
from dagster_slurm_sandbox.sandbox import Sandbox


def skip_where_it_cannot_run() -> None:
    """Skip the test that asks for a cluster where none can run; in continuous integration (variable `CI`), fail."""
    try:
        check_machine()
        require_packages()
    except SandboxError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def config_for_this_worker(name: str = DEFAULT_NAME, user: str = DEFAULT_USER, **options: Any) -> SandboxConfig:
    """A sandbox of this process alone: with pytest-xdist each worker has its own, with a user of its own.

    Args:
        name: Its name where there is one process.
        user: Its user there.
        options: The other fields of `SandboxConfig`.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    name = f"{name}-{worker}" if worker else name
    # Users are the machine's: another checkout may run its tests beside these, in a base directory of its own.
    elsewhere = f"-{paths_of(name).tag[:4]}" if os.environ.get(BASE_DIR_VARIABLE) else ""
    return SandboxConfig(name=name, user=f"{user}{f'-{worker}' if worker else ''}{elsewhere}", **options)


@pytest.fixture(scope="session")
def sandbox_config() -> SandboxConfig:
    """What the fixture `sandbox` is to look like; a `conftest.py` may have another one in its place."""
    return config_for_this_worker()


@pytest.fixture(scope="session")
def sandbox(sandbox_config: SandboxConfig) -> Iterator[Sandbox]:
    """A Slurm cluster on this machine, for trying and testing.

    One that is up is used and left up; otherwise one is brought up, and taken down after the last test. Each worker of
    pytest-xdist has its own. Where it cannot run, tests are skipped with the reason; in continuous integration
    (variable `CI`) they fail.
    """
    skip_where_it_cannot_run()
    with Sandbox(sandbox_config).running() as cluster:
        yield cluster
