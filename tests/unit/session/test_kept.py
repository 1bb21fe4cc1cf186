"""What is asked of a session for a cluster that it keeps. Pure."""

from __future__ import annotations

import subprocess

import pytest

from dagster_slurm import ComputeLauncher, Payload, Place, RayLauncher, SessionCluster, SparkLauncher
from dagster_slurm.environments import Activation
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.launchers import KeptCluster
from dagster_slurm.session import SessionSpec, Share
from dagster_slurm.session.kept import cluster_word, keeping_script, refuse_cluster
from dagster_slurm.slurm.request import merge

SHAPE = SessionCluster(num_nodes=2, cpus_per_task=3, mem="2G", gpus_per_node=1)
SESSION = SessionSpec(merge({"num_nodes": 2, "cpus": 4, "mem": "4G", "gpus_per_node": 1}))


def kept(launcher: ComputeLauncher, path: str = "/env", payload: str = "solve.py") -> KeptCluster:
    place = Place(Activation((f". {path}/activate",), f"{path}/bin/python", "an environment"), cpus=1, mem_mib=500)
    cluster = launcher.plan(Payload(payload, "python", None), place).cluster
    assert cluster is not None
    return cluster


def word(launcher: ComputeLauncher, path: str = "/env", payload: str = "solve.py") -> str:
    cluster = kept(launcher, path, payload)
    return cluster_word(cluster, keeping_script(cluster))


@pytest.mark.parametrize(("name", "kind"), [("ray", RayLauncher), ("spark", SparkLauncher)])
def test_the_word_in_the_mailbox_has_the_sizes(name: str, kind: type[ComputeLauncher]) -> None:
    key, *sizes = word(kind(session_cluster=SHAPE)).split(":")
    assert key.startswith(f"{name}-")
    assert sizes == ["2", "3", "2048", "1"]


def test_what_has_the_same_fields_and_environment_is_the_same() -> None:
    assert word(RayLauncher(session_cluster=SHAPE)) == word(RayLauncher(session_cluster=SHAPE), payload="other.py")


def test_another_field_size_or_environment_is_another() -> None:
    larger = SessionCluster(num_nodes=2, cpus_per_task=3, mem="3G", gpus_per_node=1)
    words = {
        word(RayLauncher(session_cluster=SHAPE)),
        word(RayLauncher(session_cluster=SHAPE, object_store_memory_gb=1)),
        word(RayLauncher(session_cluster=larger)),
        word(RayLauncher(session_cluster=SHAPE), path="/other"),
        word(SparkLauncher(session_cluster=SHAPE)),
    }
    assert len({each.partition(":")[0] for each in words}) == 5


@pytest.mark.parametrize("kind", [RayLauncher, SparkLauncher])
def test_its_script_is_one_of_bash(kind: type[ComputeLauncher]) -> None:
    script = keeping_script(kept(kind(session_cluster=SHAPE)))
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "exec bash keep.sh" in script


def test_each_step_has_its_own_without_it_and_on_this_machine() -> None:
    payload, here = Payload("solve.py", "python", None), Place.here("/usr/bin/python3")
    assert RayLauncher().plan(payload, Place(here.activation)).cluster is None
    assert RayLauncher(session_cluster=SHAPE).plan(payload, here) == RayLauncher().plan(payload, here)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Share(nodes=2), "The step asks for 2 nodes, and works beside a cluster that the run's session keeps"),
        (Share(cpus=2), "The step, with its cluster beside it, asks for 5 CPUs on a node, and the run's session has 4"),
        (Share(mem_mib=3000), "asks for 5048M memory on a node, and the run's session has 4096M"),
        (Share(gpus=1), "asks for 2 GPUs on a node, and the run's session has 1"),
    ],
)
def test_a_step_that_can_never_run_beside_it_is_refused(step: Share, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        refuse_cluster(SESSION, step, kept(RayLauncher(session_cluster=SHAPE)))


def test_what_fits_beside_it_is_not() -> None:
    refuse_cluster(SESSION, Share(mem_mib=2048), kept(RayLauncher(session_cluster=SHAPE)))


@pytest.mark.parametrize(
    "launcher",
    [
        RayLauncher(session_cluster=SHAPE, ray_address="10.0.0.1:6379"),
        SparkLauncher(session_cluster=SHAPE, master_url="spark://host:7077"),
    ],
)
def test_a_cluster_that_is_there_already_is_not_kept(launcher: ComputeLauncher) -> None:
    (refusal,) = launcher.requirements(None).refusals
    assert "both say which cluster it is" in refusal


def test_its_memory_is_one() -> None:
    with pytest.raises(ValueError, match="lots"):
        SessionCluster(mem="lots")
