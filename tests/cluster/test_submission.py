"""One job for one piece of work, when the controller or sbatch's answer is lost. On Slurm."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.environments import CLUSTER_PYTHON
from dagster_slurm.errors import SlurmUnavailableError
from dagster_slurm.job.batch_script import batch_script
from dagster_slurm.job.submission import submit_once
from dagster_slurm.launchers import Payload, Place, direct_plan, launch_script
from dagster_slurm.run_directory import LaunchKey, RunDirectory
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.slurm.request import merge
from dagster_slurm.transport import OpenSSHTransport, TreeEntry
from tests.ssh import connection_of
from tests.support.controller import controller_stopped
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster

MARK = "echo run by $SLURM_JOB_ID >> ../marks\n"


@pytest.fixture
def cluster(sandbox: Sandbox) -> Iterator[SlurmCluster]:
    transport = OpenSSHTransport(connection_of(sandbox.env()))
    yield SlurmCluster(transport, remote_base="~/test-submission")
    transport.close()


class Launch:
    """A launch that is ready to be submitted; its payload leaves a mark each time it is run."""

    def __init__(self, cluster: SlurmCluster, **options: object) -> None:
        self.cluster = cluster
        self.key = LaunchKey(uuid.uuid4().hex, "marked")
        self.directory: RunDirectory = self.key.first_attempt(cluster.base())
        request = merge({"mem": "50M", "time_limit": "00:02:00"}, options)
        plan = direct_plan(Payload("mark.sh", "bash", None), Place(CLUSTER_PYTHON))
        script = batch_script(request, directory=self.directory, launch=launch_script(plan))
        work = [TreeEntry("mark.sh", MARK.encode())]
        self.files = self.directory.files(script=script, env="", context=b"{}", work=work)
        cluster.transport.put_tree(self.files, self.directory.path)

    def submit(self) -> tuple[str, int]:
        handle = submit_once(Claims(self.cluster), self.directory, self.files)
        return handle.job_id, handle.generation

    def runs(self) -> list[str]:
        """The ids of the jobs that ran the payload."""
        marks = self.cluster.transport.read_from(f"{self.directory.path}/marks", 0, 10_000).decode()
        return [line.split()[-1] for line in marks.splitlines()]

    def wait_for_runs(self, *, seconds: float = 30.0) -> list[str]:
        eventually(lambda: bool(self.runs()), seconds=seconds)
        return self.runs()


def all_ended(cluster: SlurmCluster, job_ids: list[str]) -> bool:
    entries = cluster.queue(job_ids)
    return all(job_id not in entries or entries[job_id].state.is_terminal for job_id in job_ids)


def test_asked_again_gives_the_same_job(cluster: SlurmCluster) -> None:
    launch = Launch(cluster)
    first = launch.submit()
    assert [launch.submit() for _ in range(3)] == [first] * 3
    assert launch.wait_for_runs() == [first[0]]


def test_controller_away(cluster: SlurmCluster, sandbox: Sandbox) -> None:
    """Every try is answered with an error; the one that gets through runs the payload, once."""
    launch = Launch(cluster)
    with controller_stopped(sandbox):
        for _ in range(2):
            with pytest.raises(SlurmUnavailableError):
                launch.submit()
    job_id, _ = launch.submit()
    assert launch.wait_for_runs() == [job_id]


def test_job_is_found_by_its_name_when_the_answer_was_lost(cluster: SlurmCluster, sandbox: Sandbox) -> None:
    launch = Launch(cluster, hold=True)
    job_id, _ = launch.submit()
    claim = launch.directory.claim(0)
    sandbox.run(["sh", "-c", f"rm {claim}/stdout; echo 1 > {claim}/status; echo 'Socket timed out' > {claim}/stderr"])
    assert launch.submit() == (job_id, 0)
    sandbox.run(["scontrol", "release", job_id])
    assert launch.wait_for_runs() == [job_id]


def test_job_is_found_by_its_gate_when_the_answer_was_lost(cluster: SlurmCluster, sandbox: Sandbox) -> None:
    launch = Launch(cluster)
    job_id, _ = launch.submit()
    assert launch.wait_for_runs() == [job_id]
    claim = launch.directory.claim(0)
    sandbox.run(["sh", "-c", f"rm {claim}/stdout; echo 1 > {claim}/status; echo 'Socket timed out' > {claim}/stderr"])
    assert launch.submit() == (job_id, 0)


def test_late_duplicate_ends_at_the_gate(cluster: SlurmCluster, sandbox: Sandbox) -> None:
    """sbatch died before anybody knew of its job, the try was revoked, and then the job turns up."""
    launch = Launch(cluster)
    claim = launch.directory.claim(0)
    answer = "echo 1 > $1/status; : > $1/stdout; echo 'Socket timed out on send/recv operation' > $1/stderr"
    sandbox.run(["sh", "-c", f"mkdir -p $1; {answer}", "sh", claim])
    job_id, generation = launch.submit()
    assert generation == 1
    late = sandbox.run(["sbatch", "--parsable", "--job-name=late", launch.directory.script, "0"]).stdout.strip()
    eventually(lambda: all_ended(cluster, [late, job_id]))
    assert launch.runs() == [job_id]


def test_login_node_crashed_before_the_answer(
    cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    """A claim that nobody will ever answer: it is revoked, and the next try runs the payload."""
    monkeypatch.setattr("dagster_slurm.cluster.claims._SUBMIT_PATIENCE_SECONDS", 1)
    launch = Launch(cluster)
    sandbox.run(["mkdir", "-p", launch.directory.claim(0)])
    job_id, generation = launch.submit()
    assert generation == 1
    assert launch.wait_for_runs() == [job_id]
    assert Path(launch.directory.claim(0), "gate").readlink() == Path("revoked")
