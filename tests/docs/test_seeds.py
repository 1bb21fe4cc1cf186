"""Two blocks of the documents this project was asked for: as they stand, and with a given environment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import BashLauncher, ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.sandbox import Sandbox
from tests.support.environments import copied_environment
from tests.support.instances import empty_instance

pytestmark = pytest.mark.process

LOCAL_MODE = """
compute = ComputeResource(
    mode="local",
    default_launcher=BashLauncher(),
)
"""

SLURM_MODE = """
compute = ComputeResource(
    mode="slurm",
    slurm=SlurmResource(
        ssh=SSHConnectionResource.from_env(prefix="SLURM_EDGE_NODE_"),
        queue=SlurmQueueConfig(partition="compute", qos="normal"),
    ),
    default_launcher=BashLauncher(),
)
"""

MANIFEST = """
[project]
name = "analysis"
version = "0.1.0"
requires-python = ">=3.10"
dependencies = ["dagster-pipes"]
"""

PAYLOAD = """
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    print("a line of output")
    pipes.report_asset_materialization(metadata={"answer": 6 * pipes.get_extra("factor")})
"""


def _resource(block: str) -> ComputeResource:
    names: dict[str, Any] = {
        each.__name__: each
        for each in (BashLauncher, ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource)
    }
    exec(block, names)
    compute = names["compute"]
    assert isinstance(compute, ComputeResource)
    return compute


def _materialize(compute: ComputeResource, directory: Path) -> dict[str, Any]:
    payload = directory / "payload.py"
    payload.write_text(PAYLOAD, encoding="utf-8")

    def answer(context, compute: ComputeResource):  # type: ignore[no-untyped-def]
        return compute.run(context, payload, extras={"factor": 7}).get_materialize_result()

    with empty_instance() as instance:
        result = dg.materialize([dg.asset(answer)], resources={"compute": compute}, instance=instance)
        (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


@pytest.fixture
def address(sandbox: Sandbox) -> Iterator[None]:
    """The sandbox's address, in the environment and nowhere else."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            patch.delenv(name)
        for name, value in sandbox.env().items():
            patch.setenv(name, value)
        yield


def test_the_block_for_local_mode(tmp_path: Path) -> None:
    metadata = _materialize(_resource(LOCAL_MODE), tmp_path)
    assert metadata.pop("answer") == 42
    assert metadata.keys() <= {"elapsed_seconds", "cpu_efficiency_pct", "max_memory_mb"}


@pytest.mark.cluster
@pytest.mark.usefixtures("address")
def test_the_block_for_slurm_mode(sandbox: Sandbox, tmp_path: Path) -> None:
    path = copied_environment(sandbox, "tests", ["dagster-pipes"])
    launcher = "    default_launcher=BashLauncher(),\n"
    assert launcher in SLURM_MODE
    block = SLURM_MODE.replace(launcher, f"{launcher}    pre_deployed_env_path={path!r},\n")
    metadata = _materialize(_resource(block), tmp_path)
    assert metadata["answer"] == 42
    assert metadata["slurm_state"] == "COMPLETED"
    assert _accounting(sandbox, str(metadata["slurm_job_id"])) == "COMPLETED|normal|compute"


@pytest.mark.cluster
@pytest.mark.usefixtures("address")
def test_the_block_for_slurm_mode_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a project with a `uv.lock`."""
    (tmp_path / "pyproject.toml").write_text(MANIFEST, encoding="utf-8")
    subprocess.run([Path(sys.executable).with_name("uv"), "lock", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    metadata = _materialize(_resource(SLURM_MODE), tmp_path)
    assert metadata["answer"] == 42
    assert metadata["slurm_state"] == "COMPLETED"


def _accounting(sandbox: Sandbox, job: str) -> str:
    """State, QOS and partition; of a job that has just ended, sacct knows that some time later."""
    for _ in range(30):
        line = sandbox.run(["sacct", "-X", "-n", "-P", "-o", "State,QOS,Partition", "-j", job]).stdout.strip()
        if line.startswith("COMPLETED|") and not line.endswith("|"):
            break
        time.sleep(0.5)
    return line
