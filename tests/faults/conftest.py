"""A cluster of its own, to break."""

import os
from collections.abc import Iterator

import pytest

from dagster_slurm.errors import SandboxError
from dagster_slurm.sandbox import Sandbox, SandboxConfig
from dagster_slurm.sandbox.programs import check_machine, require_packages


@pytest.fixture(scope="session")
def breakable() -> Iterator[Sandbox]:
    """A second sandbox beside the one that other tests use."""
    try:
        check_machine()
        require_packages()
    except SandboxError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    cluster = Sandbox(SandboxConfig(name="faults", user="breaker", nodes=1))
    cluster.up()
    yield cluster
    cluster.down()
