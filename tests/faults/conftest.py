"""A cluster of its own, to break."""

from collections.abc import Iterator

import pytest

from dagster_slurm.sandbox import Sandbox, SandboxConfig
from dagster_slurm.sandbox.pytest_plugin import skip_where_it_cannot_run


@pytest.fixture(scope="session")
def breakable() -> Iterator[Sandbox]:
    """A second sandbox beside the one that other tests use."""
    skip_where_it_cannot_run()
    cluster = Sandbox(SandboxConfig(name="faults", user="breaker", nodes=1))
    cluster.up()
    yield cluster
    cluster.down()
