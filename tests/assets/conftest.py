"""Assets, ops and checks on this machine and on the sandbox cluster, through real Dagster runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.sandbox import Sandbox
from tests.support.environments import copied_environment

QUEUE = {"partition": "compute", "mem": "300M", "time_limit": "00:05:00", "cpus": 1}


@pytest.fixture
def payload(tmp_path: Path) -> Callable[..., Path]:
    """Writes a payload and returns its path."""

    def write(text: str, name: str = "payload.py", mode: int = 0o644) -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


@pytest.fixture(scope="session")
def environment_path(sandbox: Sandbox) -> str:
    """An environment on the cluster that has Pipes."""
    return copied_environment(sandbox, "tests", ["dagster-pipes"])


@pytest.fixture
def slurm(sandbox: Sandbox, environment_path: str, tmp_path: Path) -> Callable[..., ComputeResource]:
    """Makes compute resources for the sandbox; each test has a `remote_base` of its own."""
    env = sandbox.env()
    ssh = SSHConnectionResource(
        host=env["SLURM_EDGE_NODE_HOST"],
        port=int(env["SLURM_EDGE_NODE_PORT"]),
        user=env["SLURM_EDGE_NODE_USER"],
        key_path=env["SLURM_EDGE_NODE_KEY_PATH"],
        known_hosts_file=env["SLURM_EDGE_NODE_KNOWN_HOSTS_FILE"],
    )

    def make(
        *,
        queue: dict[str, Any] | None = None,
        remote_base: str | None = None,
        job_url: str | None = None,
        **options: Any,
    ) -> ComputeResource:
        base = remote_base or f"~/test-runs/{tmp_path.name}"
        config = SlurmQueueConfig(**{**QUEUE, **(queue or {})})
        cluster = SlurmResource(ssh=ssh, queue=config, remote_base=base, job_url=job_url)
        fields = {"mode": "slurm", "pre_deployed_env_path": environment_path, **options}
        return ComputeResource(slurm=cluster, **fields)

    return make


@pytest.fixture(params=["local", pytest.param("slurm", marks=pytest.mark.cluster)])
def compute(request: pytest.FixtureRequest) -> ComputeResource:
    """The same resource in both modes: what a test asks of it holds in either."""
    if request.param == "local":
        return ComputeResource(mode="local")
    resource: ComputeResource = request.getfixturevalue("slurm")()
    return resource


@pytest.fixture
def remote_files(sandbox: Sandbox, tmp_path: Path) -> Callable[[], list[str]]:
    """Lists what is below the test's `remote_base`."""

    def list_files() -> list[str]:
        found = sandbox.run(["sh", "-c", f"cd ~/test-runs/{tmp_path.name} 2>/dev/null && find . -type f -o -type l"])
        return sorted(found.stdout.split())

    return list_files


def run_asset(
    asset: dg.AssetsDefinition, compute: ComputeResource, instance: dg.DagsterInstance, **options: Any
) -> dg.ExecuteInProcessResult:
    """Materialise one asset; a failure is returned, not raised."""
    return dg.materialize([asset], resources={"compute": compute}, instance=instance, raise_on_error=False, **options)


def asset_of(path: Path | str, **call: Any) -> dg.AssetsDefinition:
    """An asset named `measured` that runs a payload."""

    @dg.asset
    def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        return compute.run(context, path, **call).get_materialize_result()

    return measured


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The plain metadata of the only materialisation."""
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def failure_of(result: dg.ExecuteInProcessResult) -> tuple[str, str]:
    """The class and the text of what made the step fail."""
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    error = event.step_failure_data.error
    assert error is not None
    while error.cause is not None:
        error = error.cause
    return str(error.cls_name), error.message


def compute_log(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, stream: str = "stdout") -> str:
    """What the step's compute log holds."""
    (captured,) = result.filter_events(lambda event: event.event_type_value == "LOGS_CAPTURED")
    key = [result.run_id, "compute_logs", captured.event_specific_data.file_key]
    data = instance.compute_log_manager.get_log_data(key)
    return ((data.stdout if stream == "stdout" else data.stderr) or b"").decode()


def log_messages(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> list[str]:
    """Every message of the run's event log."""
    return [entry.user_message for entry in instance.all_logs(result.run_id)]


def echo_back(**values: str) -> str:
    """A payload that reports Python expressions as a custom message."""
    report = ", ".join(f"{json.dumps(name)}: {expression}" for name, expression in values.items())
    return (
        "import os, sys, pathlib\n"
        "from dagster_pipes import open_dagster_pipes\n"
        "with open_dagster_pipes() as pipes:\n"
        f"    pipes.report_custom_message({{{report}}})\n"
    )
