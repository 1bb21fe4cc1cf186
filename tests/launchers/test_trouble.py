"""Jobs over nodes with a launcher, when something breaks: what becomes of the run, and that nothing is left of it."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import indent

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, MPILauncher, RayLauncher
from dagster_slurm.sandbox import Sandbox
from tests.assets.conftest import compute_log, failure_of, metadata_of, run_asset
from tests.faults.conftest import Record
from tests.faults.figures import NOTHING_LEFT, SUCCESS
from tests.faults.project.plan import Plan
from tests.faults.test_everything_killed import reconcile
from tests.faults.world import World
from tests.support.environments import copied_environment
from tests.support.nodes import killing_on
from tests.support.waiting import eventually

from .conftest import MARK, RAY, SPARK, SQUARES, SUM, THREE, WAIT, WAIT_FOR_ANOTHER, Family, Trial, of_both

pytestmark = [pytest.mark.cluster, pytest.mark.all_faults, pytest.mark.timeout(400)]
Make = Callable[..., ComputeResource]


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


# How long Spark's master has a worker in its table that says nothing any more.
LOST = """
import json, urllib.request
_, page, *_ = (pathlib.Path(os.environ["SPARK_CONF_DIR"]).parent / "ready").read_text().split()

def alive():
    with urllib.request.urlopen(f"http://{page}/json/", timeout=20) as answer:
        return json.load(answer)["aliveworkers"]

begun = time.monotonic()
while alive() == 3:
    time.sleep(0.2)
print("lost after", round(time.monotonic() - begun), flush=True)
"""


@pytest.mark.parametrize("family", [SPARK], ids=["spark"])
def test_a_node_without_power_while_spark_runs(trial: Trial, record: Record) -> None:
    """Its cable is out first: nothing tells the others. The master finds out after 20 s, and looks each 20 s."""

    def cut() -> None:
        trial.wait_for_starts()
        trial.sandbox.break_("network:n3")
        trial.sandbox.break_("node:n3")
        trial.go()

    text = SPARK.session + MARK + WAIT + LOST + SPARK.squares + "time.sleep(40)\n"
    result = trial.run(text, cut)
    assert result.success, compute_log(result, trial.instance, "stderr")
    record("spark-node-lost", [trial.figures(result, SUM)])
    said = compute_log(result, trial.instance)
    assert "nodes n1 n2\n" in said
    lost = re.search(r"^lost after (\d+)$", said, re.MULTILINE)
    # By default Spark takes a minute, and looks each minute.
    assert lost and int(lost[1]) < 60, said
    messages = trial.messages(result)
    assert re.search(r"spark: srun: .*Node failure on n3; the payload goes on", messages)
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
    assert re.search(r"ray: node n3: processes killed there for want of memory: \d+", trial.messages(result))
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


@of_both
def test_cancelled(trial: Trial, record: Record) -> None:
    text = trial.family.session + MARK + WAIT
    result = trial.run(text, lambda: trial.sandbox.run(["scancel", trial.wait_for_starts()]))
    kind, _ = failure_of(result)
    assert kind == "JobCancelledError"
    record(f"{trial.family.name}-cancelled", [trial.figures(result)], ends=["FAILURE"], lines=False)
    trial.nothing_is_left()


@of_both
def test_over_its_walltime(trial: Trial, record: Record) -> None:
    result = trial.run(MARK + trial.family.session + WAIT, time_limit="00:01:00")
    kind, _ = failure_of(result)
    assert kind == "JobTimeLimitError"
    record(f"{trial.family.name}-time-limit", [trial.figures(result)], ends=["FAILURE"], lines=False)
    trial.nothing_is_left()


@of_both
def test_requeued(trial: Trial, record: Record) -> None:
    def requeue() -> None:
        job = trial.wait_for_starts()
        trial.sandbox.run(["scontrol", "requeue", job])
        assert trial.wait_for_starts(2) == job
        trial.go()

    text = trial.family.session + MARK + WAIT + trial.family.squares
    result = trial.run(text, requeue, requeue=True)
    assert result.success, compute_log(result, trial.instance, "stderr")
    record(f"{trial.family.name}-requeued", [trial.figures(result, SUM)], executed=2, jobs=1)
    addresses = trial.addresses(result)
    assert len(addresses) == len(set(addresses)) == 2
    assert f"at {addresses[1]}\n" in compute_log(result, trial.instance)
    trial.nothing_is_left()


def test_ranks_on_a_node_without_power(trial: Trial, slurm: Make, record: Record) -> None:
    """With --no-kill Slurm calls such a job COMPLETED 0:0, and `srun` ends with 0."""
    packages = ["dagster-pipes", "mpi4py", "numpy", "mpich"]
    trial.compute = slurm(pre_deployed_env_path=copied_environment(trial.sandbox, "mpi-mpich", packages))
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


def two_clusters(said: str, family: Family) -> bool:
    """Whether two payloads were right, each with a cluster of its own; Ray tells its CPUs and memory, the job's."""
    lines = [line.rpartition("] ")[2] for line in said.splitlines()]
    addresses = {line for line in lines if line.startswith("at ")}
    told = (SUM, "cpus 6.0 store 1800") if family is RAY else (SUM,)
    return {lines.count(line) for line in told} == {2} and len(addresses) == 2


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
    assert two_clusters(compute_log(result, trial.instance), RAY)
    trial.nothing_is_left()


OF_ANOTHER_USER = """
import os, sys
import dagster as dg
from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from tests.launchers.conftest import FAMILIES

family = FAMILIES[sys.argv[2]]

@dg.asset
def measured(context: dg.AssetExecutionContext, compute: ComputeResource):
    return compute.run(
        context,
        sys.argv[1],
        launcher=family.launcher,
        extra_slurm_opts=family.options,
        extra_env={"MARKS": os.environ["MARKS"]},
    ).get_materialize_result()

queue = SlurmQueueConfig(partition="compute", time_limit="00:05:00")
slurm = SlurmResource(ssh=SSHConnectionResource.from_env(), queue=queue, remote_base="~/runs")
compute = ComputeResource(mode="slurm", slurm=slurm, pre_deployed_env_path=os.environ["WITH_CLUSTER"])
dg.materialize([measured], resources={"compute": compute})
"""


@of_both
def test_two_users_on_the_same_nodes_at_once(trial: Trial, with_cluster: str, record: Record, tmp_path: Path) -> None:
    (other,) = trial.sandbox.config.users
    trial.marks.mkdir(parents=True)
    trial.marks.chmod(0o1777)
    program = tmp_path / "other.py"
    program.write_text(OF_ANOTHER_USER)
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
        **trial.sandbox.env(user=other),
        "WITH_CLUSTER": with_cluster,
        "MARKS": str(trial.marks),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    argv = [sys.executable, str(program), str(tmp_path / "payload.py"), trial.family.name]
    text = trial.family.session + MARK + WAIT_FOR_ANOTHER + trial.family.squares
    (tmp_path / "payload.py").write_text(text)
    with subprocess.Popen(argv, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        result = trial.run(text)
        said, why = process.communicate(timeout=200)
    assert process.returncode == 0, why[-3000:]
    assert result.success, compute_log(result, trial.instance, "stderr")
    record(f"{trial.family.name}-two-users", [trial.figures(result, SUM)], executed=2, jobs=2)
    assert two_clusters(compute_log(result, trial.instance) + said, trial.family)
    trial.nothing_is_left()


@of_both
def test_dagster_killed(sandbox: Sandbox, family: Family, with_cluster: str, record: Record, tmp_path: Path) -> None:
    """Everything, and then `dagster-slurm reconcile`: the job is adopted, with the cluster that it has."""
    world = World(sandbox, tmp_path / "world")
    world.environment["FAULTS_ENVIRONMENT"] = with_cluster
    plan = Plan(family.name, cluster=family.name, hold=True, lines=10, slurm=family.options)
    try:
        world.execute("plain_in_process", plan)
        world.started(plan)
        world.kill_everything()
        world.let_go(plan)
        reconcile(world, world.run_of(plan))
        world.wait_for_the_end(plan)
        record(f"{family.name}-adopted", [world.figures(plan)], ends=(SUCCESS, NOTHING_LEFT))
        messages = "\n".join(text for run in world.runs_of(plan) for text in world.messages(run))
        assert len(set(re.findall(family.address, messages))) == 1
        eventually(lambda: family.left(sandbox) == [], lambda: family.left(sandbox), seconds=45)
    finally:
        world.close()
