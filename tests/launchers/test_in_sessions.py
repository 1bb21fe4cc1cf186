"""Payloads over several nodes, as steps of a session."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, MPILauncher, RayLauncher, SlurmSessionResource
from dagster_slurm.sandbox import Sandbox
from tests.assets.conftest import asset_of, compute_log, log_messages, run_asset

from .conftest import SQUARES
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
    path = sandbox.create_environment("ray", ["dagster-pipes", "numpy", "ray[default]"])
    compute = slurm(mode="slurm-session", session=SlurmSessionResource(**SHAPE), pre_deployed_env_path=path)
    squares = asset_of(payload(SQUARES.format(count=24)), launcher=RayLauncher(), extra_slurm_opts=TWO)
    result = run_asset(squares, compute, instance)
    assert result.success, log_messages(result, instance)
    said = compute_log(result, instance)
    assert "nodes n1 n2" in said
    assert "cpus 4.0" in said
