"""A place for sandboxes that bear the names which the demo and the pages give them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_slurm.sandbox import Sandbox, SandboxConfig
from dagster_slurm.sandbox.pytest_plugin import skip_where_it_cannot_run
from dagster_slurm_sandbox.config import BASE_DIR_VARIABLE


@pytest.fixture(scope="module")
def named_by_a_reader() -> Iterator[dict[str, str]]:
    """Variables by which a reader brings up, breaks and takes down sandboxes that are not the tests' own.

    Their users are the machine's: tests with this fixture stay together, see `READERS`.
    """
    skip_where_it_cannot_run()
    # Not below /tmp: sshd takes no keys from where everybody can write (StrictModes, sshd_config(5)).
    made = tempfile.TemporaryDirectory(prefix="dagster-slurm-", dir="/var/lib")
    with made as directory, pytest.MonkeyPatch.context() as patch:
        Path(directory).chmod(0o755)  # the cluster's user has to reach sockets and files in it
        patch.setenv(BASE_DIR_VARIABLE, directory)
        try:
            yield {BASE_DIR_VARIABLE: directory}
        finally:
            for name in ("default", "second"):
                Sandbox(SandboxConfig(name=name)).down()
