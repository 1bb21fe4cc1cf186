"""Payloads over several nodes, as steps of a session."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import (
    ComputeLauncher,
    ComputeResource,
    MPILauncher,
    RayLauncher,
    SessionCluster,
    SlurmSessionResource,
    SparkLauncher,
)
from dagster_slurm.sandbox import Sandbox
from tests.assets.conftest import asset_of, compute_log, log_messages, run_asset
from tests.support.environments import copied_environment
from tests.support.waiting import eventually

from .conftest import QUICK, SESSION, SPARK_SQUARES, SQUARES, left_behind, left_of_spark
from .test_mpi import EXTRAS, HEAT, _environment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

Write = Callable[..., Path]
Make = Callable[..., ComputeResource]
SHAPE = {"num_nodes": 3, "cpus_per_task": 4, "mem": "5G", "time_limit": "00:10:00"}
TWO = {"nodes": 2, "cpus": 2, "mem": "2000M"}


def test_two_steps_of_two_nodes(slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance) -> None:
    """Each has ranks on its own nodes alone; with three nodes of twice their size, both run at once."""
    compute = slurm(
        mode="slurm-session",
        session=SlurmSessionResource(**SHAPE),
        pre_deployed_env_path=_environment(sandbox, "mpich"),
    )
    stencil = asset_of(HEAT, launcher=MPILauncher(tasks_per_node=2), extras=EXTRAS, extra_slurm_opts=TWO)
    result = run_asset(stencil, compute, instance)
    assert result.success, log_messages(result, instance)
    (event,) = result.get_asset_materialization_events()
    made = {name: value.value for name, value in event.materialization.metadata.items()}
    assert (made["ranks"], made["nodes"]) == (4, 2)


@pytest.mark.all_faults
def test_ray_on_two_of_three_nodes(slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write) -> None:
    path = copied_environment(sandbox, "ray", ["dagster-pipes", "numpy", "ray[default]"])
    compute = slurm(mode="slurm-session", session=SlurmSessionResource(**SHAPE), pre_deployed_env_path=path)
    squares = asset_of(payload(SQUARES.format(count=24)), launcher=RayLauncher(), extra_slurm_opts=TWO)
    result = run_asset(squares, compute, instance)
    assert result.success, log_messages(result, instance)
    said = compute_log(result, instance)
    assert "nodes n1 n2" in said
    assert "cpus 4.0" in said


KEPT = SessionCluster(num_nodes=2, cpus_per_task=2, mem="2G")
BESIDE = {"cpus": 1, "mem": "1200M"}


def chain(*payloads: Path, launcher: ComputeLauncher, call: Callable[[int], object] = lambda number: None) -> list[Any]:
    """Assets that follow each other, each a step; `call` is done before each."""

    def asset(number: int, path: Path) -> dg.AssetsDefinition:
        @dg.asset(name=f"step_{number}", deps=[f"step_{number - 1}"] if number else [])
        def one(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
            call(number)
            done = compute.run(context, path, launcher=launcher, extra_slurm_opts=BESIDE)
            return done.get_materialize_result()

        return one

    return [asset(number, path) for number, path in enumerate(payloads)]


class Kept:
    """A session of this test alone, with what is found in the run's log of its cluster."""

    def __init__(self, slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, path: str) -> None:
        self.sandbox, self.instance = sandbox, instance
        # The cluster's user ends what it stops in the middle.
        session = SlurmSessionResource(**{**SHAPE, "name": "kept"})
        self.compute = slurm(mode="slurm-session", session=session, pre_deployed_env_path=path)
        self.messages: list[str] = []

    def run(self, assets: list[Any]) -> None:
        resources = {"compute": self.compute}
        result = dg.materialize(assets, resources=resources, instance=self.instance, raise_on_error=False)
        self.messages = log_messages(result, self.instance)
        assert result.success, self.messages

    def lines(self, word: str) -> list[str]:
        return [each for each in self.messages if "the session's" in each and word in each]

    def addresses(self, pattern: str) -> list[str]:
        return re.findall(pattern, "\n".join(self.messages))

    def kill(self, signal: str, name: str) -> None:
        assert self.sandbox.run(["pkill", f"-{signal}", "-f", name]).returncode == 0

    def end(self, left: Callable[[Sandbox], list[str]]) -> None:
        """The session's end, which leaves nothing."""
        assert self.sandbox.run(["scancel", "--me"]).returncode == 0
        eventually(lambda: left(self.sandbox) == [], lambda: left(self.sandbox), seconds=60)


def before(number: int, action: Callable[[], object]) -> Callable[[int], object]:
    """Done before one of the assets of a chain."""
    return lambda each: action() if each == number else None


@pytest.mark.all_faults
@pytest.mark.timeout(400)
def test_ray_is_kept_between_steps(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write, with_ray: str
) -> None:
    kept = Kept(slurm, sandbox, instance, with_ray)
    work = payload(SQUARES.format(count=8))
    kept.run(chain(work, work, launcher=RayLauncher(session_cluster=KEPT)))
    first, second = kept.addresses(r"RAY_ADDRESS=(\S+)")
    assert first == second
    assert len(kept.lines("new for this step")) == 1
    assert len(kept.lines("which has served 1 step(s) before")) == 1
    kept.end(left_behind)


@pytest.mark.all_faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("signal", ["KILL", "STOP"])
def test_ray_is_replaced_once_when_it_is_broken(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write, with_ray: str, signal: str
) -> None:
    """Its head is gone, or answers no more, before the second of three steps."""
    kept = Kept(slurm, sandbox, instance, with_ray)
    work = payload(SQUARES.format(count=8))
    broken = before(1, lambda: kept.kill(signal, "gcs_server"))
    kept.run(chain(work, work, work, launcher=RayLauncher(session_cluster=KEPT), call=broken))
    first, second, third = kept.addresses(r"RAY_ADDRESS=(\S+)")
    assert first != second == third
    assert len(kept.lines("It is replaced")) == 1
    kept.end(left_behind)


@pytest.mark.all_faults
@pytest.mark.timeout(600)
def test_spark_is_kept_and_replaced_once(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write, with_spark: str
) -> None:
    if shutil.which("java") is None:
        pytest.skip("there is no Java; `make test` installs one")
    kept = Kept(slurm, sandbox, instance, with_spark)
    work = payload(SESSION + SPARK_SQUARES.format(count=8))
    launcher = SparkLauncher(conf=QUICK, session_cluster=KEPT)
    kept.run(chain(work, work, work, launcher=launcher, call=before(2, lambda: kept.kill("KILL", "master.Master"))))
    first, second, third = kept.addresses(r" (spark://[\d.:]+)")
    assert first == second != third
    assert len(kept.lines("It is replaced")) == 1
    kept.end(left_of_spark)
