"""What the tests of assets have, for launchers, and a Ray cluster to try them with."""

from collections.abc import Callable

import pytest

from dagster_slurm import ComputeResource
from dagster_slurm.sandbox import Sandbox
from tests.assets.conftest import environment_path, payload, slurm
from tests.faults.conftest import record
from tests.support.nodes import left_on_nodes

__all__ = ["environment_path", "payload", "record", "slurm"]

Make = Callable[..., ComputeResource]
THREE = {"nodes": 3, "cpus": 2, "mem": "2000M"}

# Squares, on every node: a task that ends at once would leave two nodes idle.
SQUARES = """
import os, time, ray
ray.init(log_to_driver=False)

@ray.remote(num_cpus=1, max_retries=9, scheduling_strategy="SPREAD")
def square(number):
    time.sleep(0.3)
    return os.environ.get("SLURMD_NODENAME", "here"), number * number

found = ray.get([square.remote(number) for number in range({count})])
print("nodes", *sorted(set(node for node, _ in found)))
print("sum", sum(value for _, value in found))
print("cpus", ray.cluster_resources()["CPU"], "store", int(ray.cluster_resources()["object_store_memory"]) >> 20)
print("at", os.environ["RAY_ADDRESS"], flush=True)
"""


@pytest.fixture(scope="module")
def with_ray(sandbox: Sandbox) -> str:
    """An environment on the cluster that has Ray, with its dashboard."""
    return sandbox.create_environment("ray", ["dagster-pipes", "numpy", "ray[default]"])


@pytest.fixture
def ray_compute(slurm: Make, with_ray: str) -> ComputeResource:
    return slurm(pre_deployed_env_path=with_ray)


def left_behind(sandbox: Sandbox) -> list[str]:
    """What of a Ray cluster is still there."""
    return left_on_nodes(sandbox, "ray*", "plasma*")


def left_of_ranks(sandbox: Sandbox) -> list[str]:
    """What of ranks is still there: of MPI libraries and of torchrun."""
    of_mpi = ("ranks*", "ompi.*", "prte*", "mpich_shm_*", "sm_segment.*", "Intel_MPI_*")
    return left_on_nodes(sandbox, *of_mpi, "torchelastic_*")
