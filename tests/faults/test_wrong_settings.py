"""Forty wrong settings: what is read of each, how soon, how many logins it costs, and that it is tried once."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import (
    ComputeResource,
    ModuleEnvironment,
    SlurmQueueConfig,
    SlurmResource,
    SSHConnectionResource,
    UvEnvironment,
)
from dagster_slurm.sandbox import LoginNode, Sandbox
from tests.ssh import control_directory
from tests.support.waiting import eventually

from .conftest import FIGURES
from .settings import SETTINGS, Wrong
from .settings_page import Read

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

QUEUE = {"mem": "100M", "cpus": 1, "time_limit": "00:05:00"}
ENVIRONMENTS = {"uv": UvEnvironment(), "modules": ModuleEnvironment(setup_commands=["load_nothing"])}
LONG_SECONDS = 20.0
# How sshd logs the end of a connection that has tried a login and was not let in.
_REFUSED = re.compile(r"Connection (?:closed|reset) by (?:authenticating|invalid) user ")


@pytest.fixture(scope="module")
def node(sandbox: Sandbox) -> Iterator[LoginNode]:
    """A login node of its own: its log has the logins of these tests alone."""
    with sandbox.login_node() as made:
        yield made


@pytest.fixture
def work(tmp_path: Path, node: LoginNode) -> Path:
    """A directory with the files that the settings name."""
    texts = {
        "work.sh": "true\n",
        "plain.txt": "text\n",
        "windows.sh": "true\r\n",
        "imports.py": "import sklearn\n",
        "imports_prices.py": "import prices\n",
        "prices.py": "ROWS = 3\n",
        "no_hosts": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "empty").mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other_key")], check=True)
    shutil.copy(node.client_key, tmp_path / "open_key")
    (tmp_path / "open_key").chmod(0o644)
    names = [line.split()[0] for line in node.known_hosts.read_text().splitlines()]
    kind, key, *_ = (tmp_path / "other_key.pub").read_text().split()
    (tmp_path / "other_hosts").write_text("".join(f"{name} {kind} {key}\n" for name in names))
    return tmp_path


@pytest.fixture
def closed_port() -> Iterator[int]:
    """One that nobody listens on, and that nobody else takes meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def connection(node: LoginNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The way to that node, with no connection open."""
    with control_directory() as directory:
        monkeypatch.setenv("DAGSTER_SLURM_SSH_CONTROL_DIR", directory)
        yield {
            "host": "127.0.0.1",
            "port": node.port,
            "user": node.user,
            "key_path": str(node.client_key),
            "known_hosts_file": str(node.known_hosts),
        }


def filled(value: Any, places: dict[str, Any]) -> Any:
    """The value with what stands for something of this trial."""
    if isinstance(value, str):
        return places["port"] if value == "{port}" else value.format(**places)
    if isinstance(value, dict):
        return {name: filled(each, places) for name, each in value.items()}
    return [filled(each, places) for each in value] if isinstance(value, list) else value


def tried(node: LoginNode) -> int:
    """How many logins were tried there."""
    return node.logins() + len(_REFUSED.findall(node.log.read_text(errors="replace")))


class Trial:
    """A run of an asset with a wrong setting and a RetryPolicy."""

    def __init__(self, instance: dg.DagsterInstance, compute: ComputeResource, wrong: Wrong, places: dict[str, Any]):
        self.seconds: list[float] = []
        metadata = {name: ENVIRONMENTS.get(str(each), each) for name, each in wrong.metadata.items()}

        @dg.asset(metadata=metadata, retry_policy=None if wrong.is_retried else dg.RetryPolicy(max_retries=1))
        def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> None:
            began = time.monotonic()
            try:
                compute.run(context, filled(wrong.payload, places), **filled(wrong.call, places))
            finally:
                self.seconds.append(time.monotonic() - began)

        self.result = dg.materialize(
            [measured], resources={"compute": compute}, instance=instance, raise_on_error=False
        )
        (event,) = self.result.filter_events(lambda event: event.is_step_failure)
        self.shown = event.step_failure_data.error_display_string.splitlines()
        failure = event.step_failure_data.user_failure_data
        assert failure is not None, self.shown
        self.lines = str(failure.description).splitlines()


def compute_of(wrong: Wrong, connection: dict[str, Any], places: dict[str, Any]) -> ComputeResource:
    ssh = SSHConnectionResource(**{**connection, **filled(wrong.ssh, places)})
    queue = SlurmQueueConfig(**{**QUEUE, **wrong.queue})
    base = {"remote_base": f"~/test-runs/{places['work'].name}"}
    slurm = SlurmResource(ssh=ssh, queue=queue, **{**base, **wrong.slurm})
    return ComputeResource(mode="slurm", slurm=slurm, **wrong.compute)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if wrong.is_quick else [pytest.mark.all_faults]) for name, wrong in SETTINGS.items()],
)
def test_a_wrong_setting(
    instance: dg.DagsterInstance,
    node: LoginNode,
    connection: dict[str, Any],
    work: Path,
    closed_port: int,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    wrong, places = SETTINGS[name], {"work": work, "port": closed_port, "cmd": "{cmd}"}
    monkeypatch.chdir(work)
    before = tried(node)
    compute = compute_of(wrong, connection, places)
    try:
        trial = Trial(instance, compute, wrong, places)
    finally:
        compute.cluster().connect().cluster.transport.disconnect()  # type: ignore[attr-defined]
    assert len(trial.seconds) == 1, "it was tried again"
    assert re.match(wrong.first, trial.lines[0]), trial.lines
    assert re.match(wrong.hint, trial.lines[1]), trial.lines
    assert wrong.hint
    assert trial.shown[0].endswith(trial.lines[0]), "lines until the cause"
    # What sshd says of the end of a connection comes after that.
    eventually(lambda: tried(node) - before >= wrong.logins, "the logins")
    assert tried(node) - before == wrong.logins
    assert bool(wrong.waits_for) == (trial.seconds[0] > LONG_SECONDS)
    if FIGURES:
        read = Read.of(trial.seconds[0], trial.lines, node=node, work=work, port=closed_port)
        (FIGURES / "settings").mkdir(exist_ok=True)
        (FIGURES / "settings" / f"{name}.json").write_text(json.dumps(asdict(read)), encoding="utf-8")
