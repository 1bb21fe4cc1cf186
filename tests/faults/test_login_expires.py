"""A connection that was made with `dagster-slurm login` ends in the middle of a run."""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.sandbox import Sandbox
from tests.support.instances import empty_instance

from ..assets.conftest import asset_of, compute_log, log_messages, run_asset
from ..cluster.test_login_command import COMMAND, on_a_terminal
from ..support.waiting import eventually
from .conftest import Record
from .marking import figures_of, marking
from .test_login_node_away import wait_for_running_job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


@pytest.fixture
def environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The strict site in the environment, without its password."""
    control_dir = tempfile.mkdtemp(prefix="ssh-", dir="/tmp")
    for name, value in {**sandbox.env(strict=True), "DAGSTER_SLURM_SSH_CONTROL_DIR": control_dir}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_EDGE_NODE_PASSWORD")
    yield dict(os.environ)
    subprocess.run([*COMMAND, "--end"], capture_output=True, check=False)
    shutil.rmtree(control_dir)


def told_to_log_in(instance: dg.DagsterInstance) -> list[str]:
    (run,) = instance.get_runs()
    return [
        entry.user_message for entry in instance.all_logs(run.run_id) if "dagster-slurm login" in entry.user_message
    ]


def test_the_run_waits_for_a_login(
    sandbox: Sandbox, environment: dict[str, str], tmp_path: Path, record: Record
) -> None:
    answers = {"password:": sandbox.password()}
    assert on_a_terminal(COMMAND, environment, answers)[0] == 0
    path = tmp_path / "counting.py"
    path.write_text(
        marking(tmp_path.name) + "import time\nfor number in range(40):\n    print(number); time.sleep(0.25)\n"
    )
    compute = ComputeResource(
        mode="slurm",
        slurm=SlurmResource(
            ssh=SSHConnectionResource.from_env(), queue=SlurmQueueConfig(mem="100M", cpus=1), remote_base="~/expiring"
        ),
    )
    logins = sandbox.logins(strict=True)
    with empty_instance() as instance:
        told: list[str] = []

        def expire_and_log_in() -> None:
            wait_for_running_job(sandbox, "expiring")
            subprocess.run([*COMMAND, "--end"], env=environment, capture_output=True, check=True)
            told.extend(eventually(lambda: told_to_log_in(instance), "a line that says how to log in"))
            on_a_terminal(COMMAND, environment, answers)

        thread = threading.Thread(target=expire_and_log_in)
        thread.start()
        result = run_asset(asset_of(path), compute, instance)
        thread.join()
        assert told
        assert result.success
        expected = "".join(f"{number}\n" for number in range(40))
        assert compute_log(result, instance) == expected
        record("login-expires", [figures_of(sandbox, tmp_path.name, result, expected, expected)])
        assert any("answers again" in text for text in log_messages(result, instance))
    assert sandbox.logins(strict=True) - logins == 1
