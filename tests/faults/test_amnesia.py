"""A controller that has lost its state: it forgets jobs that run, and gives their numbers to others."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.cluster.judge import Patience
from dagster_slurm.job import watcher
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.sandbox.pytest_plugin import config_for_this_worker

from ..assets.conftest import asset_of, failure_of, log_messages, run_asset
from ..support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


class Site:
    """A cluster of its own, since its controller forgets whatever else it has."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self.sandbox = sandbox
        self.began = sandbox.home / "began"
        self.kept = directory / "job_state"
        first = self.submit_stranger("true")
        eventually(lambda: self.state(first) == "COMPLETED" and self.state_file.exists(), "its state", seconds=60)
        shutil.copy(self.state_file, self.kept)
        self.payload = directory / "payload.sh"
        self.payload.write_text(f"echo $SLURM_JOB_ID >>{self.began}\nsleep 300\n")

    @property
    def state_file(self) -> Path:
        return self.sandbox.paths.state_dir / "slurmctld" / "job_state"

    def begun(self) -> list[str]:
        return self.began.read_text().split() if self.began.exists() else []

    def forget(self, node_loses_power: bool) -> None:
        """Kill the controller, and start it again with its state of before the job, as from a backup.

        Without any state it would tell slurmdbd that all jobs are over.
        """
        eventually(lambda: bool(self.begun()), "a start", seconds=60)
        sacct = ["sacct", "-nX", "--format=State"]
        eventually(lambda: "RUNNING" in self.sandbox.run(sacct).stdout, "its record", seconds=60)
        nodes = [f"node:n{number}" for number in (1, 2)]
        if node_loses_power:
            for node in nodes:
                self.sandbox.break_(node)
        self.sandbox.break_("slurmctld")
        self.state_file.with_suffix(".old").unlink(missing_ok=True)
        self.state_file.write_bytes(self.kept.read_bytes())
        self.sandbox.mend("slurmctld")
        if node_loses_power:
            for node in nodes:
                self.sandbox.mend(node)

    def submit_stranger(self, command: str) -> str:
        argv = ["sbatch", "--parsable", "--partition=compute", "--mem=50M", "--job-name=stranger", f"--wrap={command}"]
        done = self.sandbox.run(argv)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job_id: str) -> str:
        argv = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job_id}"]
        return self.sandbox.run(argv).stdout.strip()

    def clear_runaway_jobs(self) -> None:
        """As an administrator does: `sacctmgr` asks, and then makes them COMPLETED."""
        done = self.sandbox.run(["sacctmgr", "show", "runawayjobs"], user="root", input="y\n")
        assert done.returncode == 0, done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    config = config_for_this_worker("tests-forgetful", "forgetful", nodes=2)
    with Sandbox(config).running() as sandbox:
        yield Site(sandbox, tmp_path)


@pytest.fixture
def compute(site: Site, monkeypatch: pytest.MonkeyPatch) -> ComputeResource:
    monkeypatch.setattr(watcher, "Patience", lambda: Patience(accounting_seconds=3.0, silent_seconds=5.0))
    for name, value in site.sandbox.env().items():
        monkeypatch.setenv(name, value)
    queue = SlurmQueueConfig(partition="compute", mem="100M", cpus=1, time_limit="00:10:00")
    cluster = SlurmResource(ssh=SSHConnectionResource.from_env(), queue=queue, remote_base="~/runs")
    return ComputeResource(mode="slurm", slurm=cluster)


def run_while(
    disturb: Callable[[], None], site: Site, compute: ComputeResource, instance: dg.DagsterInstance
) -> dg.ExecuteInProcessResult:
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            disturb()
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            failures.append(error)
            terminate(instance)

    thread = threading.Thread(target=guarded)
    thread.start()
    result = run_asset(asset_of(site.payload), compute, instance)
    thread.join()
    assert not failures, failures
    return result


def test_a_runaway_job_that_is_cleared(site: Site, compute: ComputeResource, instance: dg.DagsterInstance) -> None:
    def disturb() -> None:
        site.forget(node_loses_power=True)
        eventually(lambda: "runawayjobs" in said(instance), "the notice of a runaway job")
        site.clear_runaway_jobs()

    result = run_while(disturb, site, compute, instance)
    assert not result.success
    assert failure_of(result)[0] == "JobEndNotSeenError"
    assert len(site.begun()) == 1


@pytest.mark.all_faults
def test_a_stranger_that_gets_its_number(site: Site, compute: ComputeResource, instance: dg.DagsterInstance) -> None:
    """It is neither taken for ours nor cancelled."""
    stranger: list[str] = []

    def disturb() -> None:
        site.forget(node_loses_power=True)
        (number,) = site.begun()
        # The state that was put back may be of some jobs before it.
        while not stranger or int(stranger[0]) < int(number):
            stranger[:] = [site.submit_stranger("sleep 300")]
        assert stranger == [number]
        # It may have started, and be in the accounting, before anybody looks.
        eventually(lambda: "with the name 'stranger'" in said(instance), "a word about the stranger")
        terminate(instance)

    result = run_while(disturb, site, compute, instance)
    assert not result.success
    assert site.state(stranger[0]) == "RUNNING"
    assert "is not cancelled: it has the name 'stranger'" in "\n".join(log_messages(result, instance))


def terminate(instance: dg.DagsterInstance) -> None:
    """As the UI does it."""
    (run,) = instance.get_runs()
    instance.report_run_canceling(run)
    os.kill(os.getpid(), signal.SIGINT)


def said(instance: dg.DagsterInstance) -> str:
    runs = instance.get_runs()
    return "\n".join(entry.user_message for run in runs for entry in instance.all_logs(run.run_id))
