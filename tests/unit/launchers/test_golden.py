"""What each launcher generates, as text. `python -m tests.unit.launchers.test_golden` writes it again."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import pytest

from dagster_slurm import (
    BashLauncher,
    ComputeLauncher,
    MPILauncher,
    RayLauncher,
    RayPortConfig,
    SessionCluster,
    SparkLauncher,
    TorchrunLauncher,
)
from dagster_slurm.environments import Activation
from dagster_slurm.launchers import LaunchPlan, Payload, Place, launch_script
from dagster_slurm.launchers.hooks import Scratch
from dagster_slurm.resources.parallel_launchers import LAUNCHERS as BY_WORD

GOLDEN = Path(__file__).with_name("golden")
ACTIVATION = Activation(
    ("module load it's", "export A=1"), "/env/bin/python", "an environment", ("apptainer", "exec", "x y")
)
JOB = Place(ACTIVATION, nodes=3, cpus=4, gpus=1, mem_mib=2000)
PAYLOAD = Payload("solve it.py", "python", None)
LAUNCHERS: Mapping[str, ComputeLauncher] = {
    "bash": BashLauncher(),
    "mpi": MPILauncher(tasks_per_node=2, mpi="pmix"),
    "ray": RayLauncher(
        pre_start_commands=["echo 'on each'", "true"],
        port_strategy="fixed",
        port_config=RayPortConfig(min_worker_port=20000, max_worker_port=20999),
        object_store_memory_gb=0.5,
        ray_start_args=["--labels=a b"],
    ),
    "ray-of-session": RayLauncher(
        session_cluster=SessionCluster(num_nodes=2, cpus_per_task=4, mem="2G", gpus_per_node=1)
    ),
    "spark": SparkLauncher(conf={"spark.sql.shuffle.partitions": "6"}),
    "torchrun": TorchrunLauncher(nproc_per_node=2, max_restarts=1, options=["--monitor-interval=1"]),
}
PLACES = {"job": JOB, "here": Place.here("/usr/bin/python3", cpus=2)}


def generated(plan: LaunchPlan) -> str:
    """The script without what stands in files of the project, each named in its place."""
    text = launch_script(plan.in_scratch(Scratch("/scratch", ("*.nc",))))
    room = resources.files("dagster_slurm.launchers")
    for file in sorted(room.iterdir(), key=lambda each: -len(each.read_bytes()) if each.is_file() else 0):
        if file.name.endswith((".sh", ".py")) and file.name != "__init__.py":
            body = file.read_text(encoding="utf-8").rstrip("\n")
            for form in (body, body.replace("'", "'\"'\"'")):
                text = text.replace(form, f"[{file.name}]")
    return text + "\n"


def test_every_launcher_is_here() -> None:
    assert {type(launcher) for launcher in LAUNCHERS.values()} == set(BY_WORD.values())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", LAUNCHERS)
def test_what_a_launcher_generates(name: str, place: str) -> None:
    plan = LAUNCHERS[name].plan(PAYLOAD, PLACES[place])
    assert generated(plan) == (GOLDEN / f"{name}-{place}.txt").read_text(encoding="utf-8")


if __name__ == "__main__":
    for each, launcher in LAUNCHERS.items():
        for where, at in PLACES.items():
            (GOLDEN / f"{each}-{where}.txt").write_text(generated(launcher.plan(PAYLOAD, at)), encoding="utf-8")
