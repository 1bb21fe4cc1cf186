"""What the tests of launchers have: environments, what is left of a cluster, and trials of what happens to one."""

import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeLauncher, ComputeResource, ModuleEnvironment, RayLauncher, SparkLauncher
from dagster_slurm.sandbox import Sandbox
from tests.assets.conftest import asset_of, compute_log, environment_path, log_messages, payload, run_asset, slurm
from tests.faults.conftest import record
from tests.faults.figures import Figures, lines_off
from tests.support.environments import copied_environment
from tests.support.nodes import left_on_nodes
from tests.support.waiting import eventually

__all__ = ["environment_path", "payload", "record", "slurm"]

Make = Callable[..., ComputeResource]
Elsewhere = Callable[[str, int, str], ComputeResource]
THREE = {"nodes": 3, "cpus": 2, "mem": "2000M"}
# A JVM takes more.
THREE_OF_SPARK = {**THREE, "mem": "3G"}
# For data this small: 6 tasks in place of 200, and no compiling for a moment's work.
QUICK = {
    "spark.sql.shuffle.partitions": "6",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1",
}

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
SESSION = """
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
spark.range(100).count()
"""
SPARK_SQUARES = """
def square(number):
    import os, time
    time.sleep(0.3)
    return os.environ["SLURMD_NODENAME"], number * number

found = spark.sparkContext.parallelize(range({count}), {count}).map(square).collect()
print("nodes", *sorted(set(node for node, _ in found)))
print("sum", sum(value for _, value in found))
print("at", spark.sparkContext.master, flush=True)
"""
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


def left_behind(sandbox: Sandbox) -> list[str]:
    """What of a Ray cluster is still there."""
    return left_on_nodes(sandbox, "ray*", "plasma*")


def left_of_spark(sandbox: Sandbox) -> list[str]:
    """What of a Spark cluster is still there."""
    return left_on_nodes(sandbox, "spark*", "blockmgr*", "artifacts*", "hsperfdata_*/[0-9]*")


def left_of_ranks(sandbox: Sandbox) -> list[str]:
    """What of ranks is still there: of MPI libraries and of torchrun."""
    of_mpi = ("ranks*", "ompi.*", "prte*", "mpich_shm_*", "sm_segment.*", "Intel_MPI_*")
    return left_on_nodes(sandbox, *of_mpi, "torchelastic_*")


@dataclass(frozen=True)
class Family:
    """A kind of cluster, as the trials of all kinds need it.

    Args:
        launcher: What brings it up.
        options: Of its job.
        left: What is still there of it.
        session: Lines of a payload that begin to use it.
        squares: Lines that find `SUM` on all nodes, say on which, and at which address.
        address: How messages show that.
    """

    name: str
    launcher: ComputeLauncher
    options: Mapping[str, object]
    left: Callable[[Sandbox], list[str]]
    session: str
    squares: str
    address: str


RAY = Family("ray", RayLauncher(), THREE, left_behind, "", SQUARES.format(count=24), r"RAY_ADDRESS=(\S+)")
SPARK = Family(
    "spark",
    SparkLauncher(conf=QUICK),
    THREE_OF_SPARK,
    left_of_spark,
    SESSION,
    SPARK_SQUARES.format(count=24),
    r"(spark://[\d.:]+)",
)
FAMILIES = {family.name: family for family in (RAY, SPARK)}
of_both = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@pytest.fixture(scope="module")
def with_ray(sandbox: Sandbox) -> str:
    """An environment on the cluster that has Ray, with its dashboard."""
    return copied_environment(sandbox, "ray", ["dagster-pipes", "numpy", "ray[default]"])


@pytest.fixture
def ray_compute(slurm: Make, with_ray: str) -> ComputeResource:
    return slurm(pre_deployed_env_path=with_ray)


@pytest.fixture(scope="module")
def with_spark(sandbox: Sandbox) -> str:
    """An environment on the cluster that has Spark."""
    return copied_environment(sandbox, "spark", ["dagster-pipes", "pyspark"])


@pytest.fixture
def spark_compute(slurm: Make, with_spark: str) -> ComputeResource:
    return slurm(pre_deployed_env_path=with_spark)


@pytest.fixture
def elsewhere(slurm: Make) -> Elsewhere:
    """Makes compute resources whose environment is another one on one of the nodes."""

    def make(path: str, node: int, line: str) -> ComputeResource:
        lines = [f'[ "$SLURM_NODEID" != {node} ] || {line}']
        environment = ModuleEnvironment(setup_commands=lines, python=f"{path}/bin/python")
        return slurm(pre_deployed_env_path=None, environment=environment)

    return make


@pytest.fixture
def family() -> Family:
    """Of a trial; `of_both` says another."""
    return RAY


@pytest.fixture
def with_cluster(family: Family, request: pytest.FixtureRequest) -> str:
    """An environment on the cluster that has what the family needs."""
    if family is SPARK and shutil.which("java") is None:
        pytest.skip("there is no Java; `make test` installs one")
    return str(request.getfixturevalue(f"with_{family.name}"))


class Trial:
    """One run of a payload on three nodes, and what is done to it meanwhile."""

    def __init__(
        self,
        sandbox: Sandbox,
        instance: dg.DagsterInstance,
        compute: ComputeResource,
        family: Family,
        directory: Path,
    ) -> None:
        self.sandbox, self.instance, self.compute, self.directory = sandbox, instance, compute, directory
        self.family = family
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
            launcher=launcher or self.family.launcher,
            extra_slurm_opts={**self.family.options, **options},
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

    def addresses(self, result: dg.ExecuteInProcessResult) -> list[str]:
        """Of each cluster that has come up."""
        return re.findall(self.family.address, self.messages(result))

    def messages(self, result: dg.ExecuteInProcessResult) -> str:
        return "\n".join(log_messages(result, self.instance))

    def nothing_is_left(self, *, but_of_one_node: bool = False) -> None:
        """All nodes of the sandbox have one /tmp: what a node without power has in it stays there."""
        if but_of_one_node:
            left = {path.split("/")[2] for path in self.family.left(self.sandbox) if path.startswith("/tmp/")}
            assert len({name for name in left if not name.startswith("hsperfdata")}) == 1, left
            self.sandbox.run(["rm", "-rf", *(f"/tmp/{name}" for name in left)])
        left_now = partial(self.family.left, self.sandbox)
        eventually(lambda: left_now() == [], left_now, seconds=45)


@pytest.fixture
def trial(
    slurm: Make, family: Family, with_cluster: str, sandbox: Sandbox, instance: dg.DagsterInstance, tmp_path: Path
) -> Iterator[Trial]:
    yield Trial(sandbox, instance, slurm(pre_deployed_env_path=with_cluster), family, tmp_path)
    sandbox.run(["scancel", "--me"])
    sandbox.mend()
