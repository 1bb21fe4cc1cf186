"""Slurm itself takes a job away and starts it again, or holds it: the run follows, and nothing has failed."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SlurmRetryPolicy, SSHConnectionResource
from dagster_slurm.errors import JobNodeFailError
from dagster_slurm.sandbox import Sandbox
from tests.support.instances import empty_instance

from ..assets.conftest import asset_of, compute_log, failure_of, log_messages, metadata_of, run_asset
from ..support.waiting import eventually
from .conftest import Record
from .figures import Figures, lines_off
from .world import ALL

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

LINES = 30 if ALL else 10
EXPECTED = [f"line {number}" for number in range(LINES)]
PAYLOAD = (
    "echo start $SLURM_JOB_ID $SLURMD_NODENAME >>$HOME/{marks}\n"
    f"for n in $(seq 0 {LINES - 1}); do echo line $n; sleep 0.3; done\n"
)


@pytest.fixture
def site(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A partition whose jobs take the place of others."""
    partition = ["scontrol", "create", "PartitionName=urgent", "Nodes=n1,n2,n3", "PriorityTier=10", "State=UP"]
    assert sandbox.run(partition, user="root").returncode == 0
    yield sandbox
    sandbox.run(["scancel", "--me"])
    sandbox.run(["scontrol", "delete", "PartitionName=urgent"], user="root")


class Trial:
    """One run, and what is done to its job meanwhile."""

    def __init__(self, site: Sandbox, instance: dg.DagsterInstance, directory: Path) -> None:
        self.site = site
        self.instance = instance
        self.marks_name = f"marks-{time.monotonic_ns()}"
        self.payload = directory / "payload.sh"
        self.payload.write_text(PAYLOAD.format(marks=self.marks_name))
        self.failures: list[BaseException] = []

    def starts(self) -> list[list[str]]:
        """Job and node of each start."""
        path = self.site.home / self.marks_name
        return [line.split()[1:] for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_starts(self, count: int, *, seconds: float = 120.0) -> str:
        self.until(lambda: len(self.starts()) >= count, seconds)
        return self.starts()[0][0]

    def until(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        eventually(condition, lambda: f"starts {self.starts()}", seconds=seconds)

    def administer(self, *argv: str) -> None:
        done = self.site.run(argv, user="root")
        assert done.returncode == 0, done.stderr

    def run(self, compute: ComputeResource, disturb: Callable[[], None], **call: object) -> dg.ExecuteInProcessResult:
        def guarded() -> None:
            try:
                disturb()
            except BaseException as error:  # noqa: BLE001 - told by the thread that waits
                self.failures.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        result = run_asset(asset_of(self.payload, **call), compute, self.instance)
        thread.join()
        assert not self.failures, self.failures
        return result

    def figures(self, result: dg.ExecuteInProcessResult) -> Figures:
        """Of a requeued job the last start's lines count; they come behind those of the starts before."""
        starts = [job for job, _ in self.starts()]
        log = compute_log(result, self.instance).splitlines()
        last = log[len(log) - 1 - log[::-1].index(EXPECTED[0]) :] if EXPECTED[0] in log else []
        missing, doubled = lines_off("\n".join(last), EXPECTED)
        end = "SUCCESS" if result.success else "FAILURE"
        return Figures(len(starts), len(set(starts)), end, missing, doubled)

    def messages(self, result: dg.ExecuteInProcessResult) -> str:
        return "\n".join(log_messages(result, self.instance))


@pytest.fixture
def trial(site: Sandbox, tmp_path: Path) -> Iterator[Trial]:
    with empty_instance() as instance:
        yield Trial(site, instance, tmp_path)


@pytest.fixture
def compute(site: Sandbox, monkeypatch: pytest.MonkeyPatch) -> ComputeResource:
    for name, value in site.env().items():
        monkeypatch.setenv(name, value)
    queue = SlurmQueueConfig(partition="compute", mem="100M", cpus=1, time_limit="00:10:00", requeue=True)
    cluster = SlurmResource(ssh=SSHConnectionResource.from_env(), queue=queue, remote_base="~/runs")
    return ComputeResource(mode="slurm", slurm=cluster)


def test_requeued_by_hand(trial: Trial, compute: ComputeResource, record: Record) -> None:
    result = trial.run(compute, lambda: trial.administer("scontrol", "requeue", trial.wait_for_starts(1)))
    record("requeued", [trial.figures(result)], executed=2, jobs=1)
    assert "again (restart 1: the job was requeued)" in trial.messages(result)


@pytest.mark.all_faults
def test_preempted(trial: Trial, compute: ComputeResource, record: Record) -> None:
    def preempt() -> None:
        trial.wait_for_starts(1)
        urgent = ["sbatch", "--parsable", "--partition=urgent", "--nodes=3", "--exclusive", "--wrap=sleep 5"]
        assert trial.site.run(urgent).returncode == 0

    result = trial.run(compute, preempt)
    record("preempted", [trial.figures(result)], executed=2, jobs=1)


@pytest.mark.all_faults
def test_power_cut(trial: Trial, compute: ComputeResource, record: Record) -> None:
    def cut() -> None:
        trial.wait_for_starts(1)
        node = trial.starts()[0][1]
        with trial.site.broken(f"node:{node}"):
            # A requeued job may not start before the credential of its last start has expired, after 2 min.
            trial.wait_for_starts(2, seconds=240.0)

    result = trial.run(compute, cut)
    record("power-cut", [trial.figures(result)], executed=2, jobs=1)


def test_held_and_released(trial: Trial, compute: ComputeResource, record: Record) -> None:
    def release() -> None:
        found: list[str] = []

        def is_held() -> bool:
            shown = trial.site.run(["squeue", "--me", "--noheader", "--format=%A|%r"]).stdout
            found[:] = [line.split("|")[0] for line in shown.splitlines() if line.endswith("JobHeldUser")]
            return bool(found)

        trial.until(is_held)
        time.sleep(3.0 if ALL else 1.0)
        assert trial.site.run(["scontrol", "release", found[0]]).returncode == 0

    result = trial.run(compute, release, extra_slurm_opts={"hold": True})
    record("held", [trial.figures(result)])


def test_suspended_and_resumed(trial: Trial, compute: ComputeResource, record: Record) -> None:
    def suspend() -> None:
        job_id = trial.wait_for_starts(1)
        trial.administer("scontrol", "suspend", job_id)
        time.sleep(10.0 if ALL else 3.0)
        trial.administer("scontrol", "resume", job_id)

    result = trial.run(compute, suspend)
    record("suspended", [trial.figures(result)])


@pytest.mark.all_faults
@pytest.mark.parametrize("policy", [False, True], ids=["its own error", "retried without the node"])
def test_node_failure_without_requeue(trial: Trial, compute: ComputeResource, record: Record, policy: bool) -> None:
    def cut() -> None:
        trial.wait_for_starts(1)
        trial.site.break_(f"node:{trial.starts()[0][1]}")

    options = {"extra_slurm_opts": {"no_requeue": True}}
    rules = {"retry_policy": SlurmRetryPolicy()} if policy else {}
    try:
        result = trial.run(compute, cut, **options, **rules)
    finally:
        trial.site.mend()
    if not policy:
        assert failure_of(result)[0] == JobNodeFailError.__name__
        record("node-failed", [trial.figures(result)], ends=["FAILURE"], lines=False)
        return
    record("node-failed-retried", [trial.figures(result)], executed=2, jobs=2)
    (first, failed_on), (second, ran_on) = trial.starts()
    assert (first != second, failed_on != ran_on) == (True, True)
    assert f"the next attempt leaves out {failed_on}" in trial.messages(result)


CHAINED = """
done=$DAGSTER_SLURM_CHECKPOINT_DIR/done
stop=
trap 'stop=yes' USR1
echo start $SLURM_JOB_ID $SLURMD_NODENAME >>$HOME/{marks}
count=$(wc -l <$done 2>/dev/null || echo 0)
while [ "$count" -lt 150 ] && [ -z "$stop" ] && [ $SECONDS -lt 54 ]; do
    sleep 1; echo $count >>$done; count=$((count + 1))
done
[ "$count" -ge 150 ] || exit 85
for n in $(seq 0 29); do echo line $n; done
"""


@pytest.mark.all_faults
def test_longer_than_the_walltime(trial: Trial, compute: ComputeResource, record: Record) -> None:
    """150 s of work under a walltime of 60 s."""
    trial.payload.write_text(CHAINED.format(marks=trial.marks_name))
    options = {"time_limit": "00:01:00"}
    result = trial.run(compute, lambda: None, extra_slurm_opts=options, continue_exit_code=85)
    record("chained", [trial.figures(result)], executed=3, jobs=3)
    assert trial.messages(result).count("goes on from its checkpoint") == 2
    assert len(result.get_asset_materialization_events()) == 1
    assert metadata_of(result)["slurm_state"] == "COMPLETED"
