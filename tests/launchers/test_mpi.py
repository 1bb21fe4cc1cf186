"""Ranks of real MPI libraries: on this machine, and over three nodes of the sandbox."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, MPILauncher
from dagster_slurm.sandbox import Sandbox
from tests.assets.conftest import asset_of, compute_log, failure_of, log_messages, metadata_of, run_asset
from tests.support.environments import copied_environment

from ..support.memory import READS_1_GIB
from .conftest import left_of_ranks

Write = Callable[..., Path]
Make = Callable[..., ComputeResource]

HEAT = Path(__file__).parents[2] / "examples" / "stencil" / "payloads" / "heat.py"
EXTRAS = {"points": 60, "steps": 100}
NODES = {"nodes": 3, "cpus": 1, "mem": "1G"}
PACKAGES = {"mpich": "mpich", "openmpi": "openmpi", "intel": "impi-rt"}
NAMES = {"mpich": "MPICH", "openmpi": "Open MPI", "intel": "Intel"}
# What each library makes of each way: the ranks' world, or what is found in its place.
RIGHT = "6 ranks, 2 on n1, 2 on n2, 2 on n3"
ONES = "6 worlds of 1"
MATRIX = [
    ("mpich", "none", ONES),
    ("mpich", "pmi2", RIGHT),
    ("mpich", "pmix", "no world: .*unsupported PMI version PMIx"),
    ("mpich", "mpirun", RIGHT),
    ("openmpi", "none", ONES),
    ("openmpi", "pmi2", ONES),
    ("openmpi", "pmix", RIGHT),
    ("openmpi", "mpirun", RIGHT),
    ("intel", "none", ONES),
    ("intel", "pmi2", RIGHT),
    ("intel", "pmix", RIGHT),
    ("intel", "mpirun", RIGHT),
]
WAYS = {"mpich": "srun --mpi=pmi2", "openmpi": "srun --mpi=pmix", "intel": "srun --mpi=pmi2"}


def _environment(sandbox: Sandbox, library: str) -> str:
    requirements = ["dagster-pipes", "mpi4py", "numpy", PACKAGES[library]]
    return copied_environment(sandbox, f"mpi-{library}", requirements)


@pytest.fixture
def over_nodes(slurm: Make, sandbox: Sandbox) -> Make:
    """Makes resources whose environment has one of the libraries."""

    def make(library: str = "mpich") -> ComputeResource:
        return slurm(pre_deployed_env_path=_environment(sandbox, library))

    return make


def _heat(**launcher: Any) -> dg.AssetsDefinition:
    fields = {"tasks_per_node": 2, **launcher}
    return asset_of(HEAT, launcher=MPILauncher(**fields), extras=EXTRAS, extra_slurm_opts=NODES)


def _is_right(got: dict[str, Any], ranks: int, nodes: int) -> None:
    assert (got["ranks"], got["nodes"]) == (ranks, nodes)
    assert got["error"] < 1e-3 < got["hottest"]


@pytest.mark.process
class TestHere:
    def test_the_example(self, instance: dg.DagsterInstance) -> None:
        result = run_asset(_heat(), ComputeResource(mode="local"), instance)
        assert result.success
        _is_right(metadata_of(result), 2, 1)
        assert "[0] rows 1 to 30\n" in compute_log(result, instance)
        assert "[1] rows 31 to 60\n" in compute_log(result, instance)

    def test_a_rank_that_raises_ends_the_others(self, instance: dg.DagsterInstance, payload: Write) -> None:
        path = payload(
            "from mpi4py import MPI\n"
            "if MPI.COMM_WORLD.rank == 1: raise ValueError('no plate')\n"
            "MPI.COMM_WORLD.barrier()\n"
        )
        asset = asset_of(path, launcher=MPILauncher(np=3))
        kind, said = failure_of(run_asset(asset, ComputeResource(mode="local"), instance))
        assert kind == "PayloadFailedError"
        assert re.search(r"rank 1 on \S+ was the first of 3 to fail: exit code 1", said)
        assert "[1] ValueError: no plate" in said

    def test_functions_and_modules_are_ranks_as_well(self, instance: dg.DagsterInstance, payload: Write) -> None:
        path = payload("from mpi4py import MPI\ndef main(): print('size', MPI.COMM_WORLD.size)\n", "plates.py")
        asset = asset_of("plates:main", launcher=MPILauncher(np=2), extra_files=[path])
        result = run_asset(asset, ComputeResource(mode="local"), instance)
        assert sorted(compute_log(result, instance).splitlines()) == ["[0] size 2", "[1] size 2"]


@pytest.mark.cluster
class TestOverNodes:
    def test_the_example(self, over_nodes: Make, instance: dg.DagsterInstance, sandbox: Sandbox) -> None:
        result = run_asset(_heat(), over_nodes(), instance)
        assert result.success
        _is_right(metadata_of(result), 6, 3)
        assert "MPICH" in compute_log(result, instance, "stderr")
        assert "[5] rows 51 to 60\n" in compute_log(result, instance)
        assert sum("successfully opened dagster pipes" in each for each in log_messages(result, instance)) == 1
        assert left_of_ranks(sandbox) == []

    @pytest.mark.all_faults
    def test_files_that_a_rank_reads_are_no_memory_of_its_node(
        self, over_nodes: Make, instance: dg.DagsterInstance, payload: Write
    ) -> None:
        path = payload(f"from mpi4py import MPI\nif MPI.COMM_WORLD.rank == 0: exec({READS_1_GIB!r})\n")
        asset = asset_of(path, launcher=MPILauncher(tasks_per_node=1), extra_slurm_opts={**NODES, "mem": "2G"})
        found = metadata_of(run_asset(asset, over_nodes(), instance))
        assert 100 <= found["max_node_memory_mb"] < 200
        assert found["memory_efficiency_pct"] == pytest.approx(found["max_node_memory_mb"] / 20.48, abs=0.1)

    @pytest.mark.parametrize(
        ("library", "way", "expected"),
        [MATRIX[0], *(pytest.param(*row, marks=pytest.mark.all_faults) for row in MATRIX[1:])],
    )
    def test_every_way_is_right_or_refused(
        self, over_nodes: Make, instance: dg.DagsterInstance, library: str, way: str, expected: str
    ) -> None:
        result = run_asset(_heat(mpi=way), over_nodes(library), instance)
        said = compute_log(result, instance, "stderr")
        assert re.search(expected, said), said
        assert result.success is (expected == RIGHT)
        if result.success:
            _is_right(metadata_of(result), 6, 3)
        else:
            assert re.search(f"{NAMES[library]}.* has no world of the 6 ranks that are asked for", said)
            assert "rows" not in compute_log(result, instance), "the payload was not started"

    @pytest.mark.all_faults
    @pytest.mark.parametrize("library", PACKAGES)
    def test_auto_ends_right(self, over_nodes: Make, instance: dg.DagsterInstance, library: str) -> None:
        result = run_asset(_heat(), over_nodes(library), instance)
        _is_right(metadata_of(result), 6, 3)
        assert f", {WAYS[library]}: {RIGHT}" in compute_log(result, instance, "stderr")

    @pytest.mark.all_faults
    @pytest.mark.parametrize("way", ["auto", "mpirun"])
    @pytest.mark.parametrize("library", PACKAGES)
    def test_a_rank_that_raises_or_dies_ends_the_others(
        self,
        over_nodes: Make,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        library: str,
        way: str,
    ) -> None:
        path = payload(
            "import os\nfrom mpi4py import MPI\nworld = MPI.COMM_WORLD\nworld.barrier()\n"
            "if world.rank == 4: os.kill(os.getpid(), 9) if 'DIE' in os.environ else [].pop()\n"
            "world.barrier()\n"
        )
        for extra_env, code in (({}, 1), ({"DIE": "1"}, 137)):
            launcher = MPILauncher(mpi=way, tasks_per_node=2)
            asset = asset_of(path, launcher=launcher, extra_slurm_opts=NODES, extra_env=extra_env)
            _, said = failure_of(run_asset(asset, over_nodes(library), instance))
            first = f"rank 4 on n3 was the first of 6 to fail: exit code {code}"
            if code == 137 and (library, way) == ("openmpi", "auto"):
                # Slurm's part for PMIx kills all of a node on which a rank has died, also what would note that.
                first += r"|no end of \d of 6 ranks: .*4 on n3"
            assert re.search(first, said), said
            assert left_of_ranks(sandbox) == []

    @pytest.mark.all_faults
    def test_a_cancelled_world_saves_what_it_has(
        self, over_nodes: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write
    ) -> None:
        path = payload(
            "import os, signal, sys, time\nfrom mpi4py import MPI\nrank = MPI.COMM_WORLD.rank\n"
            "def save(*_): time.sleep(1); print('saved', flush=True); sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, save)\n"
            "MPI.COMM_WORLD.barrier()\n"
            "if rank == 0: os.system('scancel $SLURM_JOB_ID')\n"
            "time.sleep(60)\n"
        )
        asset = asset_of(path, launcher=MPILauncher(tasks_per_node=2), extra_slurm_opts=NODES)
        result = run_asset(asset, over_nodes(), instance)
        assert not result.success
        saved = [line for line in compute_log(result, instance).splitlines() if "saved" in line]
        assert sorted(saved) == [f"[{rank}] saved" for rank in range(6)]
        assert not sandbox.run(["pgrep", "-u", sandbox.user, "-f", "rank.sh"]).stdout
        assert left_of_ranks(sandbox) == []


@pytest.mark.cluster
def test_without_mpi4py_it_is_said_at_once(slurm: Make, instance: dg.DagsterInstance) -> None:
    result = run_asset(_heat(), slurm(), instance)
    _, said = failure_of(result)
    assert "No module named 'mpi4py' in the environment of" in said
    assert "Add `mpi4py`" in said
