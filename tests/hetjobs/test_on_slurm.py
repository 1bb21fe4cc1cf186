"""A heterogeneous job on four nodes: one with two nodes, between two with one."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, RayLauncher, SlurmRetryPolicy
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.sandbox.pytest_plugin import config_for_this_worker, skip_where_it_cannot_run
from tests.assets.conftest import remote_files, slurm
from tests.support.environments import copied_environment

from .conftest import FAILS_ONCE, REPORTS, run_components

__all__ = ["remote_files", "slurm"]

pytestmark = [pytest.mark.cluster, pytest.mark.process, pytest.mark.timeout(240)]

Make = Callable[..., ComputeResource]
Write = Callable[..., Path]
THREE: dict[str, dict[str, object]] = {"a": {}, "b": {"num_nodes": 2, "cpus": 2}, "c": {"mem": "200M"}}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A cluster of its own, with a node for each component of three."""
    skip_where_it_cannot_run()
    with Sandbox(config_for_this_worker("tests-het", "het", nodes=4, cpus_per_node=64)).running() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def environment_path(sandbox: Sandbox) -> str:
    return copied_environment(sandbox, "tests", ["dagster-pipes"])


@pytest.fixture
def compute(slurm: Make) -> ComputeResource:
    return slurm(mode="slurm-hetjob")


def test_three_components_each_on_its_nodes(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
) -> None:
    ran = run_components(compute, instance, payload(REPORTS), THREE)
    assert ran.result.success, ran.log
    made = ran.made
    assert {name: len(each["nodes"].split(",")) for name, each in made.items()} == {"a": 1, "b": 2, "c": 1}
    nodes = [made[name]["nodes"] for name in THREE]
    assert {each["others"] for each in made.values()} == {" ".join(nodes)}
    assert sorted(",".join(nodes).split(",")) == ["n1", "n2", "n3", "n4"]
    (leader,) = {each["slurm_job_id"].partition("+")[0] for each in made.values()}
    assert {name: each["slurm_job_id"] for name, each in made.items()} == {
        "a": f"{leader}+0",
        "b": f"{leader}+1",
        "c": f"{leader}+2",
    }
    assert all(each["node_hours"] > 0 for each in made.values())
    assert f"Submitted Slurm het job {leader} of 3 components (a, b, c)" in ran.log
    assert re.search(rf"b: Slurm job {leader}\+1 runs on n\[?\d", ran.log)


def test_one_fails_and_a_retry_submits_it_alone(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
) -> None:
    ran = run_components(compute, instance, payload(REPORTS), THREE, {"b": FAILS_ONCE}, retries=1)
    assert ran.result.success, ran.log
    assert sorted(ran.made) == ["a", "b", "c"]
    assert "Asset b: Exit code 3, Slurm job " in ran.log
    ids = {name: str(each["slurm_job_id"]) for name, each in ran.made.items()}
    assert (ids["a"].partition("+")[2], ids["b"].isdecimal(), ids["c"].partition("+")[2]) == ("0", True, "2"), ids
    assert len(ran.made["b"]["nodes"].split(",")) == 2


def test_one_fails_and_the_others_are_ended(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
) -> None:
    does = {"a": "time.sleep(600)", "b": "sys.exit(3)", "c": "time.sleep(600)"}
    ran = run_components(compute, instance, payload(REPORTS), THREE, does, on_failure="cancel")
    assert "3 of 3 assets failed. b: Exit code 3" in ran.failure
    for name in ("a", "c"):
        assert re.search(rf"{name}: Signal 15 .* ended, since b has failed: on_failure is \"cancel\"", ran.failure)
    assert ran.made == {}


def test_what_could_never_begin_is_refused(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write, remote_files: Callable[[], list[str]]
) -> None:
    ran = run_components(compute, instance, payload(REPORTS), {**THREE, "d": {}})
    assert "ask for 5 nodes of the partition 'compute', which has 4 (a 1, b 2, c 1, d 1)" in ran.cause[1]
    assert remote_files() == []


def test_the_cost_is_that_of_all(slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
    compute = slurm(mode="slurm-hetjob", max_node_hours=0.3)
    ran = run_components(compute, instance, payload(REPORTS), THREE)
    assert "The components ask for 0.333333 node-hours (a 0.08" in ran.cause[1]


@pytest.mark.all_faults
def test_what_was_ended_for_one_that_is_tried_again_begins_again_with_it(
    slurm: Make, instance: dg.DagsterInstance, payload: Write
) -> None:
    compute = slurm(mode="slurm-hetjob", retry_policy=SlurmRetryPolicy(max_retries=1, memory_factor=4))
    first = "\nif not (kept / 'tried').exists():\n    (kept / 'tried').touch()\n    "
    does = {"a": f"{first}block = b'x' * (600 << 20)", "b": f"{first}time.sleep(600)"}
    asked: dict[str, dict[str, object]] = {"a": {"mem": "300M"}, "b": {"mem": "300M", "num_nodes": 2}}
    ran = run_components(compute, instance, payload(REPORTS), asked, does, on_failure="cancel")
    assert ran.result.success, ran.log
    assert "the next attempt has 1200M" in ran.log, ran.log
    assert "Asset b is tried again with a, which it was ended for" in ran.log
    leaders = {name: str(each["slurm_job_id"]).partition("+")[::2] for name, each in ran.made.items()}
    assert (leaders["a"][0], leaders["a"][1], leaders["b"][1]) == (leaders["b"][0], "0", "1")


@pytest.mark.all_faults
def test_ray_on_the_nodes_of_one(slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write) -> None:
    pytest.importorskip("ray")
    path = copied_environment(sandbox, "ray", ["dagster-pipes", "numpy", "ray[default]"])
    does = """
import ray
ray.init(log_to_driver=False)
@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def square(number):
    time.sleep(0.3)
    return os.environ["SLURMD_NODENAME"], number * number
found = ray.get([square.remote(number) for number in range(16)])
assert sum(value for _, value in found) == 1240
nodes = sorted({node for node, _ in found})
"""
    asked = {**THREE, "b": {"num_nodes": 2, "cpus": 2, "mem": "2G"}}
    ran = run_components(
        slurm(mode="slurm-hetjob", pre_deployed_env_path=path),
        instance,
        payload(REPORTS),
        asked,
        {"b": does},
        launchers={"b": RayLauncher()},
    )
    assert ran.result.success, ran.log
    made = ran.made
    assert made["b"]["nodes"] == made["b"]["others"].split()[1]
    assert "Ray " in ran.log and " on 2 node(s)" in ran.log


@pytest.mark.all_faults
def test_one_over_its_own_time_limit_ends_alone(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
) -> None:
    asked = {**THREE, "b": {"time_limit": "00:01:00"}}
    does = {"a": "time.sleep(110)", "b": "time.sleep(600)"}
    ran = run_components(compute, instance, payload(REPORTS), asked, does)
    assert "1 of 3 assets failed. b: Time limit: Slurm job " in ran.failure
    assert sorted(ran.made) == ["a", "c"]


@pytest.mark.all_faults
def test_one_that_is_cancelled_by_its_own_id_ends_alone(
    compute: ComputeResource, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write
) -> None:
    does = {
        "a": "until('b')",
        "b": "(beside / 'b').touch(); subprocess.run(['scancel', os.environ['SLURM_JOB_ID'] + '+1']); time.sleep(600)",
    }
    ran = run_components(compute, instance, payload(REPORTS), THREE, does)
    assert "1 of 3 assets failed. b: " in ran.failure
    assert "State CANCELLED" in ran.failure
    assert sorted(ran.made) == ["a", "c"]
