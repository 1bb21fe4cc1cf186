"""`threaded_executor` and Slurm: many jobs at once out of one process."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, threaded_executor
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.transport.shell import Verb

from ..support import forked
from ..support.instances import empty_instance, lay_out_storage
from ..support.slurm_jobs import queued_jobs
from ..support.traced import name_of, watched_requests
from ..support.waiting import eventually
from .test_threaded import keys, log_of, run

pytestmark = [pytest.mark.cluster, pytest.mark.any_storage, pytest.mark.timeout(300)]

AT_ONCE = 100
FEW = 10
# Of squeue, scontrol and `sbatch --test-only`.
QUESTIONS = ("REQUEST_JOB_INFO", "REQUEST_JOB_USER_INFO", "REQUEST_JOB_WILL_RUN")
IN_FLIGHT = 100 if os.environ.get("FAULTS") == "all" else 12


@pytest.fixture
def variables(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    control = Path(f"/tmp/ssh-{os.getpid()}-{time.monotonic_ns()}")
    made = {
        **sandbox.env(),
        "DAGSTER_SLURM_SSH_CONTROL_DIR": str(control),
        "SLURM_REMOTE_BASE": f"~/runs/{tmp_path.name}",
    }
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def compute(variables: dict[str, str]) -> ComputeResource:
    queue = SlurmQueueConfig(partition="compute", mem="20M", cpus=1, time_limit="00:05:00")
    base = SlurmResource.from_env()
    return ComputeResource(mode="slurm", slurm=SlurmResource(ssh=base.ssh, queue=queue, remote_base=base.remote_base))


def assets_of(payload: Path, count: int) -> list[dg.AssetsDefinition]:
    def made(number: int) -> dg.AssetsDefinition:
        @dg.asset(name=f"asset_{number}")
        def one(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
            return compute.run(context, payload, extra_env={"NUMBER": str(number)}).get_materialize_result()

        return one

    return [made(number) for number in range(count)]


class Requests:
    """What this process asks of the login node."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.looked = 0
        self.submitted: list[str] = []

    def __call__(self, script: str, args: Sequence[str]) -> None:
        """One begins, which may have the look-ups of several steps in it, or their submissions."""
        asked = [each.name for each in (script, *script.others)] if isinstance(script, Verb) else []
        looks = asked.count("look")
        self.looked += looks
        name = name_of(script, args)
        self.asked["look" if looks else name] += 1
        self.submitted += args[4:] if name == "submit" else []


def is_ours(entry: dg.EventLogEntry) -> bool:
    """Whether it is a line about a job that waits for nothing, and no event of Dagster's own."""
    waits = re.match(r"Slurm job \d+ (waits:|was started by Slurm)", entry.user_message)
    of_dagster = entry.is_dagster_event and "Slurm job" not in entry.user_message
    return not of_dagster and entry.level > logging.DEBUG and not waits


def test_many_at_once(
    sandbox: Sandbox,
    compute: ComputeResource,
    tmp_path: Path,
    variables: dict[str, str],
    storage: Mapping[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundred jobs: every line in its own log, one login, no submission too many, and few questions."""
    payload = tmp_path / "payload.sh"
    payload.write_text("for n in 0 1 2 3 4; do echo $NUMBER says $n; sleep 1; done\n")
    job = dg.Definitions(
        assets=assets_of(payload, AT_ONCE), resources={"compute": compute}, executor=threaded_executor
    ).resolve_implicit_global_asset_job_def()
    logins, sessions, calls = sandbox.logins(), sandbox.sessions_opened(), sandbox.rpc_counts()
    requests = Requests()
    with empty_instance(tmp_path, storage) as instance, watched_requests(requests):
        written: list[str] = []
        add = instance.add_run_tags
        monkeypatch.setattr(instance, "add_run_tags", lambda run_id, tags: (written.append(run_id), add(run_id, tags)))
        began = time.monotonic()
        result = run(job, instance)
        seconds = time.monotonic() - began
        after = sandbox.rpc_counts()
        spent = {kind: after[kind] - calls.get(kind, 0) for kind in after}
        asked = sum(number for kind, number in spent.items() if kind.startswith(QUESTIONS))
        channels = sandbox.sessions_opened() - sessions
        print(f"{AT_ONCE} jobs: {seconds:.1f} s, {asked} questions, {channels} channels; {spent}")
        assert result.success
        assert len(keys(result, "ASSET_MATERIALIZATION")) == AT_ONCE
        for number in range(AT_ONCE):
            expected = [f"{number} says {n}" for n in range(5)]
            assert log_of(result, instance, f"asset_{number}").splitlines() == expected
        lines = [each.message for each in instance.all_logs(result.run_id) if is_ours(each)]
        assert len(lines) == 2 * AT_ONCE, Counter(re.sub(r"\d+", "N", each)[:80] for each in lines)
        tags = instance.get_run_by_id(result.run_id).tags  # type: ignore[union-attr]
        assert sum(name.startswith("slurm/job/") for name in tags) == 20
        assert 1 <= len(written) <= 2
    assert sandbox.logins() - logins <= 1
    assert sandbox.sessions_opened() - sessions <= 8
    assert spent["REQUEST_SUBMIT_BATCH_JOB"] == AT_ONCE
    # A step looks once, and its files and its submission go together, once.
    print(requests.asked)
    assert (requests.looked, len(requests.submitted), len(set(requests.submitted))) == (AT_ONCE, AT_ONCE, AT_ONCE)
    assert "put_tree" not in requests.asked
    # How many go together depends on how close to each other the steps begin: 126 of 200, once, on a machine with other
    # work. How few they are where it has none is counted below.
    assert requests.asked["look"] + requests.asked["submit"] <= 1.6 * AT_ONCE
    # One a second, and what may follow at once after a pause.
    assert asked <= seconds + 5


@pytest.mark.all_faults
def test_a_hundred_jobs_need_few_requests(
    compute: ComputeResource, tmp_path: Path, storage: Mapping[str, object]
) -> None:
    payload = tmp_path / "payload.sh"
    payload.write_text("sleep 10\n")
    definitions = dg.Definitions(
        assets=assets_of(payload, AT_ONCE), resources={"compute": compute}, executor=threaded_executor
    )
    requests = Requests()
    with empty_instance(tmp_path, storage) as instance, watched_requests(requests):
        assert run(definitions.resolve_implicit_global_asset_job_def(), instance).success
    print(requests.asked)
    assert requests.asked.total() <= 1.2 * AT_ONCE


PROGRAM = """
import os
from pathlib import Path
import dagster as dg
from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, threaded_executor
from tests.support.instances import empty_instance

HERE = Path(__file__).parent

def made(number):
    @dg.asset(name=f"asset_{number}")
    def one(context: dg.AssetExecutionContext, compute: ComputeResource):
        return compute.run(context, HERE / "payload.sh").get_materialize_result()
    return one

queue = SlurmQueueConfig(partition="compute", mem="20M", cpus=1, time_limit="00:05:00")
base = SlurmResource.from_env()
compute = ComputeResource(mode="slurm", slurm=SlurmResource(ssh=base.ssh, queue=queue, remote_base=base.remote_base))
defs = dg.Definitions(
    assets=[made(number) for number in range(int(os.environ["NUMBER"]))],
    jobs=[dg.define_asset_job("all", "*")],
    resources={"compute": compute},
    executor=threaded_executor,
)
"""


class Worker:
    """A process that executes a run of so many assets."""

    def __init__(self, directory: Path, sandbox: Sandbox, number: int, storage: Mapping[str, object]) -> None:
        self.sandbox = sandbox
        self.number = number
        self.directory = directory
        (directory / "program.py").write_text(PROGRAM)
        self.marks = sandbox.home / f"marks-{time.monotonic_ns()}"
        (directory / "payload.sh").write_text(
            f"echo start >>{self.marks}; while ! [ -e {self.marks}.go ]; do sleep 0.2; done; echo end >>{self.marks}\n"
        )
        lay_out_storage(directory / "home", storage)
        self.environment = {**os.environ, "DAGSTER_HOME": str(directory / "home"), "NUMBER": str(number)}
        argv = [sys.executable, "-m", "dagster", "job", "execute", "-f", str(directory / "program.py"), "-j", "all"]
        nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = forked.start(argv, env=self.environment, **nowhere)

    def count(self, what: str) -> int:
        return self.marks.read_text().split().count(what) if self.marks.exists() else 0

    def started(self, number: int | None = None) -> None:
        wanted = self.number if number is None else number
        eventually(lambda: self.count("start") >= wanted, f"{wanted} starts", seconds=90.0)

    def go(self) -> None:
        assert self.sandbox.run(["touch", f"{self.marks}.go"]).returncode == 0

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.directory / "home"))


@pytest.fixture
def worker(
    sandbox: Sandbox,
    variables: dict[str, str],
    tmp_path: Path,
    storage: Mapping[str, object],
    request: pytest.FixtureRequest,
) -> Iterator[Worker]:
    made = Worker(tmp_path, sandbox, getattr(request, "param", FEW), storage)
    yield made
    made.process.kill()
    made.process.wait()
    sandbox.run(["scancel", "--me"])


def test_a_signal_of_a_restart_ends_nothing(worker: Worker) -> None:
    worker.started()
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(2.0)
    assert worker.process.poll() is None
    worker.go()
    assert worker.process.wait(timeout=60) == 0
    (only,) = worker.instance().get_runs()
    assert only.status == dg.DagsterRunStatus.SUCCESS
    assert worker.count("start") == worker.count("end") == FEW


def test_a_users_termination_cancels_every_job(worker: Worker) -> None:
    worker.started()
    instance = worker.instance()
    (only,) = instance.get_runs()
    instance.report_run_canceling(only)
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait(timeout=90)
    assert instance.get_run_by_id(only.run_id).status == dg.DagsterRunStatus.CANCELED  # type: ignore[union-attr]
    assert worker.count("end") == 0
    assert not queued_jobs(worker.sandbox, worker.directory.name, "RUNNING,PENDING")


@pytest.mark.parametrize("worker", [IN_FLIGHT], indirect=True)
@pytest.mark.parametrize(
    "share",
    [
        pytest.param(1.0, id="all in flight"),
        pytest.param(0.2, id="most not submitted yet", marks=pytest.mark.all_faults),
    ],
)
def test_killed_and_retried_each_executed_once(worker: Worker, share: float) -> None:
    worker.started(int(worker.number * share))
    worker.process.kill()
    worker.process.wait()
    instance = worker.instance()
    (only,) = instance.get_runs()
    worker.go()
    argv = [sys.executable, "-m", "dagster_slurm.cli", "reconcile", "--run", only.run_id]
    done = forked.run(argv, env=worker.environment, timeout=240)
    print(done.stdout, done.stderr)
    runs = instance.get_runs()
    assert {each.status for each in runs} == {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS}
    assert worker.count("start") == worker.count("end") == worker.number


def test_where_few_jobs_may_be_submitted(
    sandbox: Sandbox,
    compute: ComputeResource,
    tmp_path: Path,
    variables: dict[str, str],
    storage: Mapping[str, object],
) -> None:
    """Two places for eight jobs: the others wait, and nobody fails."""
    payload = tmp_path / "payload.sh"
    payload.write_text("sleep 1\n")
    definitions = dg.Definitions(
        assets=assets_of(payload, 8), resources={"compute": compute}, executor=threaded_executor
    )
    modify = ["sacctmgr", "-i", "modify", "qos", "normal", "set"]
    assert sandbox.run([*modify, "MaxSubmitJobsPerUser=2"], user="root").returncode == 0
    try:
        with empty_instance(tmp_path, storage) as instance:
            calls, began = sandbox.rpc_counts()["total"], time.monotonic()
            result = run(definitions.resolve_implicit_global_asset_job_def(), instance)
            spent, seconds = sandbox.rpc_counts()["total"] - calls, time.monotonic() - began
            print(f"{seconds:.1f} s, {spent} RPCs")
            assert result.success
            said = [entry.user_message for entry in instance.all_logs(result.run_id)]
            assert [text for text in said if text.startswith("Slurm takes no more jobs now; waiting")]
            assert [text for text in said if text.startswith("There is a place again")]
    finally:
        assert sandbox.run([*modify, "MaxSubmitJobsPerUser=-1"], user="root").returncode == 0
