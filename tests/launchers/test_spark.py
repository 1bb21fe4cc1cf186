"""A Spark cluster around a payload: on three nodes of the sandbox, and on this machine."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SparkLauncher
from dagster_slurm.sandbox import Sandbox
from tests.assets.conftest import asset_of, compute_log, failure_of, log_messages, metadata_of, run_asset
from tests.faults.conftest import Record
from tests.faults.figures import Figures
from tests.support.nodes import killing_on
from tests.support.waiting import stretched

from .conftest import QUICK, SESSION, THREE_OF_SPARK, Elsewhere, left_of_spark

pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java; `make test` installs one")

Make = Callable[..., ComputeResource]
Write = Callable[..., Path]
on_slurm = [pytest.mark.cluster, pytest.mark.timeout(280)]
JOIN = Path(__file__).parents[2] / "examples" / "join" / "payloads" / "encounters.py"
WORKER = "deploy.worker.Worker"

# Every word of Python's own library with every equal one: how many pairs there are, a plain count knows as well.
PAIRS = """
print('begun', flush=True)
import collections, os, pathlib, re, time
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
library = pathlib.Path(os.__file__).parent
files = sorted(str(path) for path in library.glob("*.py"))[:12]


def words_of(path):
    return re.findall("[a-z]+", pathlib.Path(path).read_text(errors="replace"))


def rows_of(path):
    time.sleep(0.5)
    return [(os.environ.get("SLURMD_NODENAME", "here"), word) for word in words_of(path)]


words = spark.sparkContext.parallelize(files, len(files)).flatMap(rows_of).toDF("node string, word string").cache()
nodes = sorted(row.node for row in words.select("node").distinct().collect())
pairs = words.select("word").join(words.select("word"), "word").count()
counted = collections.Counter(word for path in files for word in words_of(path))
print("right", pairs == sum(count * count for count in counted.values()), len(counted) > 1000)
print("nodes", *nodes)
print("at", spark.sparkContext.master, flush=True)
"""

# Where the secret is, besides the files that only the user can read.
SECRET = """
settings = pathlib.Path(os.environ["SPARK_CONF_DIR"]) / "spark-defaults.conf"
secret = re.search("authenticate.secret (.*)", settings.read_text())[1]
seen = []
for cmdline in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
        seen += [str(cmdline)] * (secret.encode() in cmdline.read_bytes())
    except OSError:
        pass
logs = [*settings.parents[1].glob("out.*"), *pathlib.Path("/tmp").glob("spark*/work/*/*/stderr")]
spark.stop()
events = [path for path in pathlib.Path("spark-events").rglob("*") if path.is_file()]
seen += [str(path) for path in [*logs, *events] if secret in path.read_text(errors="replace")]
print("secret", len(secret), "logs", len(logs), "events", len(events) > 0, "seen", seen, flush=True)
"""

AFTER_A_FIRST = "print('begun', flush=True)\n" + SESSION

# A task that takes more than its node's memory the first time.
HUNGRY_ONCE = """
print('begun', flush=True)
import os, pathlib, time
from pyspark.sql import SparkSession

mark = pathlib.Path("eaten").absolute()


def hungry(number):
    if number == 5 and not mark.exists():
        mark.touch()
        print(len(b"x" * (3500 << 20)))
    time.sleep(1)
    return number


spark = SparkSession.builder.getOrCreate()
print("sum", spark.sparkContext.parallelize(range(12), 12).map(hungry).sum(), flush=True)
"""

# Two jobs, each of which goes on when the other's cluster is up, too; and the pages behind the master's.
BOTH = dg.StaticPartitionsDefinition(["left", "right"])
RANGE = {"dagster/asset_partition_range_start": "left", "dagster/asset_partition_range_end": "right"}
MEETS = """
print('begun', flush=True)
import os, pathlib, time, urllib.request
from pyspark.sql import SparkSession

key = os.environ["DAGSTER_SLURM_PARTITION_KEY"]
other = "left" if key == "right" else "right"
spark = SparkSession.builder.getOrCreate()


def node(number):
    time.sleep(1)
    return os.environ["SLURMD_NODENAME"]


nodes = sorted(set(spark.sparkContext.parallelize(range(12), 12).map(node).collect()))
place = pathlib.Path.home() / os.environ["SLURM_ARRAY_JOB_ID"]
place.mkdir(exist_ok=True)
(place / key).touch()
until = time.monotonic() + 120
while not (place / other).exists():
    assert time.monotonic() < until, "the other is not there"
    time.sleep(0.2)
nodes += sorted(set(spark.sparkContext.parallelize(range(12), 12).map(node).collect()) - set(nodes))
_, page, *_ = (pathlib.Path(os.environ["SPARK_CONF_DIR"]).parent / "ready").read_text().split()
jobs = f"http://{page}/proxy/{spark.sparkContext.applicationId}/jobs/"
with urllib.request.urlopen(jobs, timeout=20) as answer:
    print("met", other, "on", " ".join(nodes) + ", page", answer.status, "Completed Jobs" in answer.read().decode())
(place / f"{key}.seen").touch()
while not (place / f"{other}.seen").exists():
    assert time.monotonic() < until, "the other has not seen it"
    time.sleep(0.2)
"""


def figures(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> Figures:
    executed = compute_log(result, instance).count("begun\n")
    return Figures(executed, executed, "SUCCESS" if result.success else "FAILURE")


def on_nodes(payload: Path, launcher: SparkLauncher | None = None, **call: object) -> dg.AssetsDefinition:
    return asset_of(payload, launcher=launcher or SparkLauncher(conf=QUICK), extra_slurm_opts=THREE_OF_SPARK, **call)


class TestOnThreeNodes:
    """Each node has its own address."""

    pytestmark = on_slurm

    @pytest.mark.all_faults
    def test_it_uses_all_and_leaves_nothing(
        self,
        spark_compute: ComputeResource,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        tmp_path: Path,
    ) -> None:
        path = payload(PAIRS + SECRET)
        result = run_asset(
            on_nodes(path, SparkLauncher(event_log=True, conf=QUICK), outputs=["spark-events/**/*"]),
            spark_compute,
            instance,
        )
        assert result.success, compute_log(result, instance, "stderr")
        said = compute_log(result, instance)
        assert "right True True\n" in said
        assert "nodes n1 n2 n3\n" in said
        assert "secret 64 logs 6 events True seen []\n" in said
        assert left_of_spark(sandbox) == []
        messages = log_messages(result, instance)
        (up,) = [text for text in messages if "spark://" in text]
        assert re.search(r"Spark \d.*on 3 node\(s\), n1 n2 n3: spark://.*, 3 executor\(s\) of 2 CPU\(s\)", up)
        assert len([text for text in messages if "ssh -N -L" in text]) == 1
        assert sandbox.run(["sh", "-c", f"find ~/test-runs/{tmp_path.name} -name 'spark.*'"]).stdout == ""

    @pytest.mark.all_faults
    def test_the_example(self, spark_compute: ComputeResource, instance: dg.DagsterInstance) -> None:
        asset = on_nodes(JOIN, SparkLauncher(conf=QUICK), extras={"ships": 2000})
        result = run_asset(asset, spark_compute, instance)
        assert result.success, compute_log(result, instance, "stderr")
        # On how many nodes the few tasks of the last step run is Spark's choice; the payload checks its result.
        assert 30_000 < metadata_of(result)["encounters"] < 37_000

    def test_an_environment_without_spark(
        self, slurm: Make, instance: dg.DagsterInstance, payload: Write, sandbox: Sandbox
    ) -> None:
        result = run_asset(on_nodes(payload("print('begun')\n")), slurm(), instance)
        _, text = failure_of(result)
        assert "Spark cannot run: node n1: there is no pyspark in its environment" in text
        assert "`uv add pyspark`" in text
        assert left_of_spark(sandbox) == []

    def test_a_node_without_java(
        self, elsewhere: Elsewhere, with_spark: str, instance: dg.DagsterInstance, payload: Write, sandbox: Sandbox
    ) -> None:
        compute = elsewhere(with_spark, 1, "export JAVA_HOME=/no/java")
        result = run_asset(on_nodes(payload("print('begun')\n")), compute, instance)
        _, text = failure_of(result)
        assert "Spark does not come up: node n2: there is no Java (/no/java/bin/java)" in text
        assert "begun" not in compute_log(result, instance)
        assert left_of_spark(sandbox) == []

    @pytest.mark.all_faults
    def test_a_node_that_does_not_join(
        self,
        elsewhere: Elsewhere,
        with_spark: str,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        record: Record,
    ) -> None:
        compute = elsewhere(with_spark, 2, f"export JAVA_TOOL_OPTIONS=-Dspark.authenticate.secret={'ab' * 32}")
        seconds = stretched(40)
        launcher = SparkLauncher(startup_timeout=seconds)
        result = run_asset(on_nodes(payload("print('begun')\n"), launcher), compute, instance)
        _, text = failure_of(result)
        assert f"Spark does not come up: node n3: it has not joined the cluster in {seconds} s" in text
        assert "begun" not in compute_log(result, instance)
        record("spark-no-worker", [figures(result, instance)], executed=0, ends=["FAILURE"], lines=False)
        assert left_of_spark(sandbox) == []

    @pytest.mark.all_faults
    def test_a_master_that_does_not_come_up(
        self,
        spark_compute: ComputeResource,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        record: Record,
    ) -> None:
        launcher = SparkLauncher(conf={"spark.worker.timeout": "never"})
        result = run_asset(on_nodes(payload("print('begun')\n"), launcher), spark_compute, instance)
        _, text = failure_of(result)
        assert "Spark does not come up: node n1: it has ended with status" in text
        assert "never" in text
        record("spark-no-master", [figures(result, instance)], executed=0, ends=["FAILURE"], lines=False)
        assert left_of_spark(sandbox) == []

    @pytest.mark.all_faults
    def test_a_payload_that_raises(
        self,
        spark_compute: ComputeResource,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        tmp_path: Path,
        record: Record,
    ) -> None:
        path = payload(PAIRS + "raise ValueError('not enough')\n")
        result = run_asset(on_nodes(path), spark_compute, instance)
        kind, text = failure_of(result)
        assert kind == "PayloadFailedError"
        assert "ValueError: not enough" in text
        assert "exit code 1" in text
        record("spark-raises", [figures(result, instance)], ends=["FAILURE"], lines=False)
        assert left_of_spark(sandbox) == []
        kept = sandbox.run(["sh", "-c", f"find ~/test-runs/{tmp_path.name} -path '*/logs/n?/app-*/stderr'"]).stdout
        assert {path.split("/logs/")[1].split("/")[0] for path in kept.split()} == {"n1", "n2", "n3"}
        find = f"find ~/test-runs/{tmp_path.name} -name token -o -name spark-defaults.conf"
        assert sandbox.run(["sh", "-c", find]).stdout == ""

    @pytest.mark.all_faults
    def test_a_worker_that_is_lost_is_a_warning(
        self,
        spark_compute: ComputeResource,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        record: Record,
    ) -> None:
        path = payload(SESSION + killing_on(2, WORKER) + PAIRS)
        result = run_asset(on_nodes(path), spark_compute, instance)
        assert result.success, compute_log(result, instance, "stderr")
        assert "right True True\nnodes n1 n2\n" in compute_log(result, instance)
        assert any("spark: node n3: it has ended with status 137" in text for text in log_messages(result, instance))
        record("spark-worker-lost", [figures(result, instance)], lines=False)
        assert left_of_spark(sandbox) == []

    @pytest.mark.all_faults
    def test_a_node_out_of_memory_is_a_warning(
        self,
        spark_compute: ComputeResource,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        record: Record,
    ) -> None:
        result = run_asset(on_nodes(payload(HUNGRY_ONCE)), spark_compute, instance)
        assert result.success, compute_log(result, instance, "stderr")
        assert "sum 66\n" in compute_log(result, instance)
        assert "processes killed there for want of memory: " in compute_log(result, instance, "stderr")
        record("spark-node-memory", [figures(result, instance)], lines=False)
        assert left_of_spark(sandbox) == []

    @pytest.mark.all_faults
    def test_a_master_that_is_lost_ends_the_payload(
        self,
        spark_compute: ComputeResource,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        record: Record,
    ) -> None:
        path = payload(
            "print('begun', flush=True)\n" + killing_on(0, "deploy.master.Master") + "import time\ntime.sleep(600)\n"
        )
        result = run_asset(on_nodes(path), spark_compute, instance)
        _, text = failure_of(result)
        assert "spark: node n1: it has ended with status 137" in text
        assert "exit code 74" in text
        record("spark-master-lost", [figures(result, instance)], ends=["FAILURE"], lines=False)
        assert left_of_spark(sandbox) == []

    @pytest.mark.all_faults
    def test_a_spark_of_the_nodes(
        self, slurm: Make, with_spark: str, instance: dg.DagsterInstance, payload: Write, sandbox: Sandbox
    ) -> None:
        found = sandbox.run(["sh", "-c", f"ls -d {with_spark}/lib/python3*/site-packages/pyspark"]).stdout.strip()
        path = payload(AFTER_A_FIRST + "print('python', spark.sparkContext.parallelize(range(9)).map(abs).sum())\n")
        launcher = SparkLauncher(spark_home=found, executor_cores=1, num_executors=1, conf=QUICK)
        asset = asset_of(path, launcher=launcher, extra_slurm_opts={**THREE_OF_SPARK, "nodes": 1})
        # The environment has no pyspark.
        result = run_asset(asset, slurm(), instance)
        assert result.success, compute_log(result, instance, "stderr")
        assert "python 36\n" in compute_log(result, instance)
        assert any("1 executor(s) of 1 CPU(s)" in text for text in log_messages(result, instance))
        assert left_of_spark(sandbox) == []

    @pytest.mark.all_faults
    def test_two_at_once_on_the_same_nodes(
        self,
        spark_compute: ComputeResource,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        record: Record,
    ) -> None:
        path = payload(MEETS)

        @dg.asset(partitions_def=BOTH, backfill_policy=dg.BackfillPolicy.single_run())
        def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
            done = compute.run_partitions(
                context,
                path,
                launcher=SparkLauncher(conf=QUICK),
                extra_slurm_opts={**THREE_OF_SPARK, "nodelist": "n[1-3]"},
            )
            return done.get_materialize_result()

        result = run_asset(measured, spark_compute, instance, tags=RANGE)
        assert result.success, compute_log(result, instance, "stderr")
        said = compute_log(result, instance)
        for key, other in (("left", "right"), ("right", "left")):
            assert f"[{key}] met {other} on n1 n2 n3, page 200 True\n" in said
        record("spark-two-jobs", [figures(result, instance)], executed=2, lines=False)
        assert left_of_spark(sandbox) == []


@pytest.mark.process
class TestOnThisMachine:
    """The same asset, unchanged; docs/spark.md and the example's page do that too."""

    @pytest.mark.all_faults
    def test_it_runs_here(self, instance: dg.DagsterInstance, payload: Write) -> None:
        pytest.importorskip("pyspark")
        path = payload(PAIRS)
        result = run_asset(asset_of(path, launcher=SparkLauncher(conf=QUICK)), ComputeResource(mode="local"), instance)
        assert result.success, compute_log(result, instance, "stderr")
        assert "right True True\nnodes here\nat local[*]\n" in compute_log(result, instance)
        assert any("Spark's page, while a session is open: http://" in text for text in log_messages(result, instance))

    @pytest.mark.all_faults
    def test_a_cluster_that_is_there(self, instance: dg.DagsterInstance, payload: Write) -> None:
        pytest.importorskip("pyspark")
        path = payload(AFTER_A_FIRST + "print('at', spark.sparkContext.master)\n")
        launcher = SparkLauncher(master_url="local[3]", executor_memory="600M")
        result = run_asset(asset_of(path, launcher=launcher), ComputeResource(mode="local"), instance)
        assert result.success, compute_log(result, instance, "stderr")
        assert "at local[3]\n" in compute_log(result, instance)
