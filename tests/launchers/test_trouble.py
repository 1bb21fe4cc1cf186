"""Jobs over nodes with a launcher, when something breaks: what becomes of the run, and that nothing is left of it."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, MPILauncher, RayLauncher
from dagster_slurm.sandbox import Sandbox
from tests.assets.conftest import asset_of, compute_log, failure_of, log_messages, metadata_of, run_asset
from tests.faults.conftest import Record
from tests.faults.figures import NOTHING_LEFT, SUCCESS, Figures, lines_off
from tests.faults.project.plan import Plan
from tests.faults.test_everything_killed import reconcile
from tests.faults.world import World
from tests.support.nodes import killing_on
from tests.support.waiting import eventually

from .conftest import SQUARES, THREE, left_behind

pytestmark = [pytest.mark.cluster, pytest.mark.all_faults, pytest.mark.timeout(400)]
Make = Callable[..., ComputeResource]
SUM = "sum 4324"
MARK = """
import os, pathlib, time
marks = pathlib.Path(os.environ["MARKS"])
marks.mkdir(parents=True, exist_ok=True)
(marks / f"{time.time_ns()}.{os.environ['SLURM_JOB_ID']}").touch()
"""
WAIT = """
while not (marks / "go").exists():
    time.sleep(0.2)
"""
# Until another is up, too; and then both compute.
WAIT_FOR_ANOTHER = """
while len(list(marks.glob("*.*"))) < 2:
    time.sleep(0.2)
"""


class Trial:
    """One run of a payload on three nodes, and what is done to it meanwhile."""

    def __init__(
        self, sandbox: Sandbox, instance: dg.DagsterInstance, compute: ComputeResource, directory: Path
    ) -> None:
        self.sandbox, self.instance, self.compute, self.directory = sandbox, instance, compute, directory
        self.failures: list[BaseException] = []
        self.marks = sandbox.home / f"trouble-{directory.name}"

    def starts(self) -> list[str]:
        """The job of each start."""
        return [path.suffix[1:] for path in sorted(self.marks.glob("*.*"))]

    def wait_for_starts(self, count: int = 1) -> str:
        """The job, when its payload has begun that often."""
        eventually(lambda: len(self.starts()) >= count, self.starts, seconds=200)
        return self.starts()[-1]

    def go(self) -> None:
        (self.marks / "go").touch()

    def run(
        self,
        text: str,
        disturb: Callable[[], object] = lambda: None,
        *,
        launcher: Any = None,
        variables: Mapping[str, str] | None = None,
        **options: object,
    ) -> dg.ExecuteInProcessResult:
        def guarded() -> None:
            try:
                disturb()
            except BaseException as error:  # noqa: BLE001 - told by the thread that waits
                self.failures.append(error)

        payload = self.directory / "payload.py"
        payload.write_text(text)
        asset = asset_of(
            payload,
            launcher=launcher or RayLauncher(),
            extra_slurm_opts={**THREE, **options},
            extra_env={"MARKS": str(self.marks), **(variables or {})},
        )
        thread = threading.Thread(target=guarded)
        thread.start()
        result = run_asset(asset, self.compute, self.instance)
        thread.join()
        assert not self.failures, self.failures
        return result

    def figures(self, result: dg.ExecuteInProcessResult, *lines: str) -> Figures:
        starts = self.starts()
        missing, doubled = lines_off(compute_log(result, self.instance), lines)
        return Figures(len(starts), len(set(starts)), "SUCCESS" if result.success else "FAILURE", missing, doubled)

    def messages(self, result: dg.ExecuteInProcessResult) -> str:
        return "\n".join(log_messages(result, self.instance))

    def nothing_is_left(self, *, but_of_one_node: bool = False) -> None:
        """All nodes of the sandbox have one /tmp: what a node without power has in it stays there."""
        if but_of_one_node:
            (name,) = {path.split("/")[2] for path in left_behind(self.sandbox)}
            self.sandbox.run(["rm", "-rf", f"/tmp/{name}"])
        eventually(lambda: left_behind(self.sandbox) == [], lambda: left_behind(self.sandbox), seconds=45)


@pytest.fixture
def trial(
    slurm: Make, with_ray: str, sandbox: Sandbox, instance: dg.DagsterInstance, tmp_path: Path
) -> Iterator[Trial]:
    yield Trial(sandbox, instance, slurm(pre_deployed_env_path=with_ray), tmp_path)
    sandbox.run(["scancel", "--me"])
    sandbox.mend()


def test_a_node_without_power_while_ray_runs(trial: Trial, record: Record) -> None:
    """Slurm hears of it after SlurmdTimeout, 30 s; Ray sooner."""

    def cut() -> None:
        trial.wait_for_starts()
        trial.sandbox.break_("node:n3")
        trial.go()

    result = trial.run(MARK + WAIT + SQUARES.format(count=24) + "time.sleep(60)\n", cut)
    assert result.success, compute_log(result, trial.instance, "stderr")
    record("ray-node-lost", [trial.figures(result, SUM)])
    assert "nodes n1 n2\n" in compute_log(result, trial.instance)
    messages = trial.messages(result)
    assert re.search(r"ray: srun: .*Node failure on n3; the payload goes on", messages)
    assert "node n3 was lost; the payload has succeeded all the same" in messages
    trial.nothing_is_left(but_of_one_node=True)


# More than the job has on the node, in a task that is repeated elsewhere.
GREEDY = """
import ray
ray.init(log_to_driver=False)

@ray.remote(num_cpus=2, max_retries=5, scheduling_strategy="SPREAD")
def greedy():
    name = os.environ["SLURMD_NODENAME"]
    if name == "n3":
        block = bytearray(3 << 30)
    time.sleep(1)
    return name

found = set()
for _ in range(3):
    found |= set(ray.get([greedy.remote() for _ in range(6)]))
print("nodes", *sorted(found))
time.sleep(6)
print("done", flush=True)
"""


GREEDY_ONCE = """
import ray
ray.init(log_to_driver=False)

@ray.remote(num_cpus=1, max_retries=5)
def greedy():
    flag = marks / "greedy"
    if not flag.exists():
        flag.touch()
        block = bytearray(3 << 30)

ray.get(greedy.remote())
print("done", flush=True)
"""


def test_a_node_without_memory_while_ray_runs(trial: Trial, record: Record) -> None:
    """Ray's own look at the memory is left out: the kernel is to be the first."""
    variables = {"RAY_memory_monitor_refresh_ms": "0"}
    result = trial.run(MARK + GREEDY, variables=variables)
    assert result.success, compute_log(result, trial.instance, "stderr")
    record("ray-node-memory", [trial.figures(result, "done")])
    assert re.search(r"node n3 had \d+ processes? killed for want of memory", trial.messages(result))
    assert re.search(r"ray: node n3: \d+ processes were killed there for want of memory", trial.messages(result))
    assert metadata_of(result)["max_node_memory_name"] == "n3"
    trial.nothing_is_left()


def test_a_job_without_memory_that_ray_has_outlived(trial: Trial, record: Record) -> None:
    """On one node Ray is a part of the batch script: Slurm calls the job OUT_OF_MEMORY."""
    variables = {"RAY_memory_monitor_refresh_ms": "0"}
    result = trial.run(MARK + GREEDY_ONCE, nodes=1, variables=variables)
    assert result.success, compute_log(result, trial.instance, "stderr")
    record("ray-job-memory", [trial.figures(result, "done")])
    assert re.search(r"node n\d had \d+ process(es)? killed for want of memory", trial.messages(result))
    assert metadata_of(result)["slurm_state"] == "OUT_OF_MEMORY"
    trial.nothing_is_left()


def test_a_node_s_ray_ends(trial: Trial, record: Record) -> None:
    text = MARK + killing_on(2, "raylet/raylet") + "time.sleep(5)\n" + SQUARES.format(count=24)
    result = trial.run(text)
    assert result.success, compute_log(result, trial.instance, "stderr")
    record("ray-worker-lost", [trial.figures(result, SUM)])
    assert "ray: node n3: it has ended with status" in trial.messages(result)
    assert "node n3 ended its part before the payload did" in trial.messages(result)
    trial.nothing_is_left()


def test_the_first_node_s_ray_ends(trial: Trial, record: Record) -> None:
    result = trial.run(MARK + killing_on(0, "raylet/raylet") + "time.sleep(600)\n")
    _, text = failure_of(result)
    assert re.search(r"ray: node n1: it has ended with status \d+", text)
    assert "exit code 74" in text
    record("ray-head-lost", [trial.figures(result)], ends=["FAILURE"], lines=False)
    trial.nothing_is_left()


def test_cancelled_while_ray_runs(trial: Trial, record: Record) -> None:
    result = trial.run(MARK + WAIT, lambda: trial.sandbox.run(["scancel", trial.wait_for_starts()]))
    kind, _ = failure_of(result)
    assert kind == "JobCancelledError"
    record("ray-cancelled", [trial.figures(result)], ends=["FAILURE"], lines=False)
    trial.nothing_is_left()


def test_over_its_walltime_while_ray_runs(trial: Trial, record: Record) -> None:
    result = trial.run(MARK + WAIT, time_limit="00:01:00")
    kind, _ = failure_of(result)
    assert kind == "JobTimeLimitError"
    record("ray-time-limit", [trial.figures(result)], ends=["FAILURE"], lines=False)
    trial.nothing_is_left()


def test_requeued_while_ray_runs(trial: Trial, record: Record) -> None:
    def requeue() -> None:
        job = trial.wait_for_starts()
        trial.sandbox.run(["scontrol", "requeue", job])
        assert trial.wait_for_starts(2) == job
        trial.go()

    result = trial.run(MARK + WAIT + SQUARES.format(count=24), requeue, requeue=True)
    assert result.success, compute_log(result, trial.instance, "stderr")
    record("ray-requeued", [trial.figures(result, SUM)], executed=2, jobs=1)
    addresses = re.findall(r"RAY_ADDRESS=(\S+)", trial.messages(result))
    assert len(addresses) == len(set(addresses)) == 2
    assert f"at {addresses[1]}\n" in compute_log(result, trial.instance)
    trial.nothing_is_left()


def test_ranks_on_a_node_without_power(trial: Trial, slurm: Make, record: Record) -> None:
    """With --no-kill Slurm calls such a job COMPLETED 0:0, and `srun` ends with 0."""
    packages = ["dagster-pipes", "mpi4py", "numpy", "mpich"]
    trial.compute = slurm(pre_deployed_env_path=trial.sandbox.create_environment("mpi-mpich", packages))
    text = (
        f"import os, time\nfrom mpi4py import MPI\nrank = MPI.COMM_WORLD.rank\nif rank == 0:\n{indent(MARK, '    ')}\n"
        "time.sleep(90 if rank < 4 else 900)\nos._exit(0)\n"
    )

    def cut() -> None:
        trial.wait_for_starts()
        trial.sandbox.break_("node:n3")

    result = trial.run(text, cut, launcher=MPILauncher(tasks_per_node=2), no_kill=True)
    _, said = failure_of(result)
    # Slurm ends the ranks on other nodes, too.
    assert "Node failure on n3" in said
    assert re.search(r"no end of \d of 6 ranks: .*4 on n3, 5 on n3", said), said
    record("mpi-node-lost", [trial.figures(result)], ends=["FAILURE"], lines=False)


def two_clusters(said: str) -> bool:
    """Whether two payloads were right, each with a cluster of its own that has its own job's CPUs and memory."""
    lines = [line.rpartition("] ")[2] for line in said.splitlines()]
    addresses = {line for line in lines if line.startswith("at ")}
    return [lines.count(line) for line in (SUM, "cpus 6.0 store 1800")] == [2, 2] and len(addresses) == 2


def test_two_ray_jobs_on_the_same_nodes_at_once(trial: Trial, record: Record) -> None:
    """As tasks of an array."""
    payload = trial.directory / "payload.py"
    payload.write_text(MARK + WAIT_FOR_ANOTHER + SQUARES.format(count=24))
    options = {"extra_slurm_opts": THREE, "extra_env": {"MARKS": str(trial.marks)}}

    @dg.asset(
        partitions_def=dg.StaticPartitionsDefinition(["one", "two"]), backfill_policy=dg.BackfillPolicy.single_run()
    )
    def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        return compute.run_partitions(context, payload, launcher=RayLauncher(), **options).get_materialize_result()

    tags = {"dagster/asset_partition_range_start": "one", "dagster/asset_partition_range_end": "two"}
    result = run_asset(measured, trial.compute, trial.instance, tags=tags)
    assert result.success, compute_log(result, trial.instance, "stderr")
    record("ray-two-jobs", [trial.figures(result)], executed=2, jobs=2)
    assert two_clusters(compute_log(result, trial.instance))
    trial.nothing_is_left()


OF_ANOTHER_USER = """
import os, sys
import dagster as dg
from dagster_slurm import ComputeResource, RayLauncher, SlurmQueueConfig, SlurmResource, SSHConnectionResource

@dg.asset
def measured(context: dg.AssetExecutionContext, compute: ComputeResource):
    return compute.run(
        context,
        sys.argv[1],
        launcher=RayLauncher(),
        extra_slurm_opts={"nodes": 3, "cpus": 2, "mem": "2000M"},
        extra_env={"MARKS": os.environ["MARKS"]},
    ).get_materialize_result()

queue = SlurmQueueConfig(partition="compute", time_limit="00:05:00")
slurm = SlurmResource(ssh=SSHConnectionResource.from_env(), queue=queue, remote_base="~/runs")
compute = ComputeResource(mode="slurm", slurm=slurm, pre_deployed_env_path=os.environ["WITH_RAY"])
dg.materialize([measured], resources={"compute": compute})
"""


def test_two_users_on_the_same_nodes_at_once(trial: Trial, with_ray: str, record: Record, tmp_path: Path) -> None:
    (other,) = trial.sandbox.config.users
    trial.marks.mkdir(parents=True)
    trial.marks.chmod(0o1777)
    program = tmp_path / "other.py"
    program.write_text(OF_ANOTHER_USER)
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
        **trial.sandbox.env(user=other),
        "WITH_RAY": with_ray,
        "MARKS": str(trial.marks),
    }
    argv = [sys.executable, str(program), str(tmp_path / "payload.py")]
    text = MARK + WAIT_FOR_ANOTHER + SQUARES.format(count=24)
    (tmp_path / "payload.py").write_text(text)
    with subprocess.Popen(argv, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        result = trial.run(text)
        said, why = process.communicate(timeout=200)
    assert process.returncode == 0, why[-3000:]
    assert result.success, compute_log(result, trial.instance, "stderr")
    record("ray-two-users", [trial.figures(result, SUM)], executed=2, jobs=2)
    assert two_clusters(compute_log(result, trial.instance) + said)
    trial.nothing_is_left()


def test_dagster_killed_while_ray_runs(sandbox: Sandbox, with_ray: str, record: Record, tmp_path: Path) -> None:
    """Everything, and then `dagster-slurm reconcile`: the job is adopted, with the cluster that it has."""
    world = World(sandbox, tmp_path / "world")
    world.environment["FAULTS_ENVIRONMENT"] = with_ray
    plan = Plan("ray", ray=True, hold=True, lines=10, slurm=THREE)
    try:
        world.execute("plain_in_process", plan)
        world.started(plan)
        world.kill_everything()
        world.let_go(plan)
        reconcile(world, world.run_of(plan))
        world.wait_for_the_end(plan)
        record("ray-adopted", [world.figures(plan)], ends=(SUCCESS, NOTHING_LEFT))
        messages = "\n".join(text for run in world.runs_of(plan) for text in world.messages(run))
        assert len(set(re.findall(r"RAY_ADDRESS=(\S+)", messages))) == 1
        eventually(lambda: left_behind(sandbox) == [], lambda: left_behind(sandbox), seconds=45)
    finally:
        world.close()
