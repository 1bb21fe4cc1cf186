"""A pytest plugin with the fixture `sandbox`: `pytest_plugins = ["dagster_slurm.sandbox.pytest_plugin"]`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dagster_slurm.errors import SandboxError
from dagster_slurm.sandbox.programs import check_machine, require_packages
from dagster_slurm.sandbox.sandbox import Sandbox


def skip_where_it_cannot_run() -> None:
    """Skip the test that asks for a cluster where none can run; in continuous integration (variable `CI`), fail."""
    try:
        check_machine()
        require_packages()
    except SandboxError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A Slurm cluster on this machine, for trying and testing.

    One that is up is used and left up; otherwise one is brought up, and taken down after the last test. Where it
    cannot run, tests are skipped with the reason; in continuous integration (variable `CI`) they fail.
    """
    skip_where_it_cannot_run()
    with Sandbox().running() as cluster:
        yield cluster
