"""The login node goes away while a job runs or is sent: the run succeeds, with one job, each line once."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.sandbox import Sandbox

from ..assets.conftest import asset_of, compute_log, log_messages, metadata_of, run_asset
from ..support.controller import controller_stopped
from ..support.slurm_jobs import queued_jobs, submitted_jobs
from ..support.waiting import eventually
from .conftest import Record
from .marking import figures_of, marking
from .world import ALL

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(420)]

AWAY_SECONDS = 60.0 if ALL else 5.0
LINES = int(2 * AWAY_SECONDS) + 16
TALKATIVE = f"""
import time
for number in range({LINES}):
    print("line", number)
    time.sleep(0.5)
"""
EXPECTED = "".join(f"line {number}\n" for number in range(LINES))


@pytest.fixture
def compute(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ComputeResource:
    for name, value in sandbox.env().items():
        monkeypatch.setenv(name, value)
    cluster = SlurmResource(
        ssh=SSHConnectionResource.from_env(),
        queue=SlurmQueueConfig(mem="100M", cpus=1, time_limit="00:10:00"),
        remote_base=f"~/runs/{tmp_path.name}",
    )
    return ComputeResource(mode="slurm", slurm=cluster, debug_mode=True)


def run_while(disturb: Callable[[], None], run: Callable[[], Any]) -> Any:
    """Run, with a disturbance beside it; a failure of either is a failure."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            disturb()
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    result = run()
    thread.join()
    assert not failures, failures
    return result


def bytes_below(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def wait_for_running_job(sandbox: Sandbox, below: str) -> None:
    eventually(lambda: queued_jobs(sandbox, below, "RUNNING"), "a running job", pause_seconds=0.2)


@pytest.mark.parametrize("hang", [False, True], ids=["killed", "hanging"])
def test_away_while_the_job_runs(
    sandbox: Sandbox,
    compute: ComputeResource,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    record: Record,
    hang: bool,
) -> None:
    path = tmp_path / "talkative.py"
    path.write_text(marking(tmp_path.name) + TALKATIVE)
    before = submitted_jobs(sandbox)

    def disturb() -> None:
        wait_for_running_job(sandbox, tmp_path.name)
        time.sleep(2.0)
        with sandbox.broken("sshd", hang=hang):
            time.sleep(AWAY_SECONDS)

    result = run_while(disturb, lambda: run_asset(asset_of(path), compute, instance))
    assert result.success
    assert compute_log(result, instance) == EXPECTED
    assert submitted_jobs(sandbox) - before == {str(metadata_of(result)["slurm_job_id"])}
    messages = log_messages(result, instance)
    # A connection that hangs is found out after half a minute or so.
    told = 1 if ALL or not hang else 0
    assert len([text for text in messages if "does not answer" in text]) == told
    assert len([text for text in messages if "answers again" in text]) == told
    row = "sshd-hanging" if hang else "sshd-killed"
    record(row, [figures_of(sandbox, tmp_path.name, result, compute_log(result, instance), EXPECTED)])


def test_killed_while_200_mb_are_sent(
    sandbox: Sandbox, compute: ComputeResource, instance: dg.DagsterInstance, tmp_path: Path, record: Record
) -> None:
    path = tmp_path / "count.py"
    path.write_text(marking(tmp_path.name) + "import os\nprint(os.path.getsize('large'))\n")
    large = tmp_path / "large"
    size = 200_000_000
    with large.open("wb") as file:
        for _ in range(200):
            file.write(bytes(1000) * 1000)
    before = submitted_jobs(sandbox)

    def disturb() -> None:
        runs = sandbox.home / "runs" / tmp_path.name
        eventually(lambda: bytes_below(runs) > 20_000_000, "an upload that is under way", pause_seconds=0.005)
        with sandbox.broken("sshd"):
            time.sleep(5.0)

    result = run_while(disturb, lambda: run_asset(asset_of(path, extra_files=[large]), compute, instance))
    assert result.success
    assert compute_log(result, instance) == f"{size}\n"
    assert submitted_jobs(sandbox) - before == {str(metadata_of(result)["slurm_job_id"])}
    figures = figures_of(sandbox, tmp_path.name, result, compute_log(result, instance), f"{size}\n")
    record("upload-interrupted", [figures])


def test_controller_away_at_submission(
    sandbox: Sandbox, compute: ComputeResource, instance: dg.DagsterInstance, tmp_path: Path, record: Record
) -> None:
    path = tmp_path / "once.py"
    path.write_text(marking(tmp_path.name) + "print('once')\n")
    before = submitted_jobs(sandbox)
    away = threading.Event()

    def disturb() -> None:
        with controller_stopped(sandbox):
            away.set()
            # Longer than Slurm's commands try by themselves.
            time.sleep(12.0 if ALL else 6.0)

    def run() -> dg.ExecuteInProcessResult:
        assert away.wait(60.0)
        return run_asset(asset_of(path), compute, instance)

    result = run_while(disturb, run)
    assert result.success
    assert compute_log(result, instance) == "once\n"
    assert len(submitted_jobs(sandbox) - before) == 1
    figures = figures_of(sandbox, tmp_path.name, result, compute_log(result, instance), "once\n")
    record("controller-at-submission", [figures])
