"""A Ray cluster around a payload: on three nodes of the sandbox, and on this machine."""

import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, RayLauncher
from dagster_slurm.sandbox import Sandbox
from tests.assets.conftest import asset_of, compute_log, failure_of, log_messages, metadata_of, run_asset
from tests.faults.conftest import Record
from tests.faults.figures import Figures
from tests.support.waiting import eventually, stretched

from .conftest import SQUARES, THREE, Elsewhere, left_behind

pytest.importorskip("ray")

Make = Callable[..., ComputeResource]
Write = Callable[..., Path]
on_slurm = [pytest.mark.cluster, pytest.mark.timeout(240)]
SEARCH = Path(__file__).parents[2] / "examples" / "search" / "payloads" / "search.py"
NODES = {"n1", "n2", "n3"}
# Where the token is, besides its file: command lines, and logs of the run, of nodes and of Ray.
TOKEN = """
import pathlib
kept = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"])
token = kept.read_text().strip()
logs = [*kept.parent.glob("out.*"), *kept.parents[1].glob("log/*")]
logs += pathlib.Path("/tmp").glob("ray*/session_latest/logs/*")
seen = []
for path in [*pathlib.Path("/proc").glob("[0-9]*/cmdline"), *logs]:
    try:
        seen += [str(path)] * (path.is_file() and token.encode() in path.read_bytes())
    except OSError:
        pass
print("token", len(token), "logs", len(logs) > 9, "seen", seen, flush=True)
"""


def kept_logs(sandbox: Sandbox, tmp_path: Path) -> set[str]:
    """The nodes whose logs are kept."""
    command = (
        f"ls -d ~/test-runs/{tmp_path.name}/*/*/ray.*/logs/*/raylet.out 2>/dev/null | awk -F/ '{{ print $(NF-1) }}'"
    )
    return set(sandbox.run(["sh", "-c", command]).stdout.split())


def on_nodes(payload: Path, launcher: RayLauncher | None = None, **options: object) -> dg.AssetsDefinition:
    return asset_of(payload, launcher=launcher or RayLauncher(), extra_slurm_opts={**THREE, **options})


class TestOnThreeNodes:
    """Each node has its own address."""

    pytestmark = on_slurm

    @pytest.mark.all_faults
    def test_it_uses_all_and_leaves_nothing(
        self,
        ray_compute: ComputeResource,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        tmp_path: Path,
    ) -> None:
        result = run_asset(on_nodes(payload(SQUARES.format(count=24) + TOKEN)), ray_compute, instance)
        assert result.success, compute_log(result, instance, "stderr")
        said = compute_log(result, instance)
        assert "nodes n1 n2 n3\n" in said
        assert f"sum {sum(number * number for number in range(24))}\n" in said
        assert "token 64 logs True seen []\n" in said
        # Those of the job, not of the machine: 0.3 of 2000 MiB on each node.
        assert "cpus 6.0 store 1800\n" in said
        assert left_behind(sandbox) == []
        found = metadata_of(result)
        assert found["max_node_memory_name"] in NODES
        assert 100 < found["mean_node_memory_mb"] < found["max_node_memory_mb"] < 2000
        messages = log_messages(result, instance)
        assert any("runs on n[1-3]" in text for text in messages)
        (up,) = [text for text in messages if "RAY_ADDRESS=" in text]
        assert "on 3 node(s), n1 n2 n3" in up
        (dashboard,) = [text for text in messages if "ssh -N -L" in text]
        shown = re.search(r"\(token: cat (.*)/ray\.(\d+)\.0/token\)", dashboard)
        assert shown, dashboard
        assert sandbox.run(["sh", "-c", f"ls -d {shown[1]}/ray.*"]).stdout == "", "after success nothing of it is kept"

    def test_the_example(self, ray_compute: ComputeResource, instance: dg.DagsterInstance, sandbox: Sandbox) -> None:
        asset = asset_of(SEARCH, launcher=RayLauncher(), extras={"trials": 16}, extra_slurm_opts=THREE)
        result = run_asset(asset, ray_compute, instance)
        assert result.success, compute_log(result, instance, "stderr")
        # On how many nodes short trials run is Ray's choice. The noise that it cannot predict is 0.15.
        assert 0.1 < metadata_of(result)["error_m"] < 0.2
        assert any("on 3 node(s), n1 n2 n3" in text for text in log_messages(result, instance))
        assert left_behind(sandbox) == []

    @pytest.mark.all_faults
    def test_a_payload_that_raises(
        self,
        ray_compute: ComputeResource,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        tmp_path: Path,
        record: Record,
    ) -> None:
        path = payload(SQUARES.format(count=6) + "raise ValueError('not enough')\n")
        result = run_asset(on_nodes(path), ray_compute, instance)
        kind, text = failure_of(result)
        assert kind == "PayloadFailedError"
        assert "ValueError: not enough" in text
        assert "exit code 1" in text
        assert left_behind(sandbox) == []
        record(
            "ray-raises",
            [Figures(compute_log(result, instance).count("sum "), 1, "FAILURE")],
            ends=["FAILURE"],
            lines=False,
        )
        assert kept_logs(sandbox, tmp_path) == NODES
        token = sandbox.run(["sh", "-c", f"find ~/test-runs/{tmp_path.name} -name token"]).stdout
        assert token == ""

    @pytest.mark.all_faults
    def test_a_node_that_does_not_join(
        self,
        ray_compute: ComputeResource,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        record: Record,
    ) -> None:
        seconds = stretched(15)
        launcher = RayLauncher(
            head_startup_timeout=seconds,
            pre_start_commands=['echo "here is $SLURMD_NODENAME"', '[ "$SLURM_NODEID" != 2 ] || sleep 900'],
        )
        result = run_asset(on_nodes(payload("print('begun')\n"), launcher), ray_compute, instance)
        _, text = failure_of(result)
        assert f"Ray does not come up: node n3: it has not joined the cluster in {seconds} s" in text
        assert "here is n3" in text
        executed = compute_log(result, instance).count("begun")
        record("ray-no-worker", [Figures(executed, executed, "FAILURE")], executed=0, ends=["FAILURE"], lines=False)
        assert left_behind(sandbox) == []

    @pytest.mark.all_faults
    def test_a_node_on_which_ray_does_not_start(
        self, ray_compute: ComputeResource, instance: dg.DagsterInstance, payload: Write, sandbox: Sandbox
    ) -> None:
        launcher = RayLauncher(
            pre_start_commands=['[ "$SLURM_NODEID" != 1 ] || { export RAY_AUTH_TOKEN=' + "ab" * 16 + "; }"]
        )
        result = run_asset(on_nodes(payload("print('begun')\n"), launcher), ray_compute, instance)
        _, text = failure_of(result)
        assert "Ray does not come up: node n2: it has ended with status 1" in text
        assert "InvalidAuthToken" in text or "token" in text
        assert left_behind(sandbox) == []

    @pytest.mark.all_faults
    def test_a_head_that_does_not_come_up(
        self,
        ray_compute: ComputeResource,
        instance: dg.DagsterInstance,
        payload: Write,
        sandbox: Sandbox,
        record: Record,
    ) -> None:
        launcher = RayLauncher(ray_start_args=["--no-such-option"])
        result = run_asset(on_nodes(payload("print('begun')\n"), launcher), ray_compute, instance)
        _, text = failure_of(result)
        assert "Ray does not come up: node n1: it has ended with status 2" in text
        assert "No such option" in text
        executed = compute_log(result, instance).count("begun")
        record("ray-no-head", [Figures(executed, executed, "FAILURE")], executed=0, ends=["FAILURE"], lines=False)
        assert left_behind(sandbox) == []

    @pytest.mark.all_faults
    def test_a_node_with_another_ray(
        self, elsewhere: Elsewhere, with_ray: str, instance: dg.DagsterInstance, payload: Write, sandbox: Sandbox
    ) -> None:
        other = sandbox.home / "other-ray"
        about = f"{other}/ray-1.2.dist-info"
        sandbox.run(["sh", "-c", f"mkdir -p {about}; printf 'Name: ray\\nVersion: 1.2\\n' >{about}/METADATA"])
        compute = elsewhere(with_ray, 1, f"export PYTHONPATH={other}")
        result = run_asset(on_nodes(payload("print('begun')\n")), compute, instance)
        _, text = failure_of(result)
        python = r"with Python 3[.]\d+[.]\d+"
        assert re.search(rf"node n2: it has Ray 1[.]2 {python}, and n1 has Ray 2[.]\d+[.]\d+ {python}", text), text
        assert "begun" not in compute_log(result, instance)
        assert left_behind(sandbox) == []

    def test_an_environment_without_ray(
        self, slurm: Make, instance: dg.DagsterInstance, payload: Write, sandbox: Sandbox
    ) -> None:
        result = run_asset(on_nodes(payload("print('begun')\n")), slurm(), instance)
        _, text = failure_of(result)
        assert "there is no Ray in its environment" in text
        assert "uv add 'ray[default]'" in text
        assert left_behind(sandbox) == []


@pytest.fixture
def by_hand() -> Iterator[str]:
    """The address of a Ray cluster that somebody else has started on this machine."""
    # Sockets are made in it, whose paths may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as directory:
        argv = [
            "--head",
            "--block",
            "--port=0",
            "--num-cpus=1",
            "--include-dashboard=false",
            '--resources={"by_hand": 7}',
        ]
        ray = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *argv, f"--temp-dir={directory}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        address = Path(directory, "ray_current_cluster")
        try:
            eventually(lambda: (address.exists() and address.read_text().strip()) or None, "the address of Ray")
            yield address.read_text().strip()
        finally:
            ray.terminate()
            ray.wait(60)


@pytest.mark.process
class TestOnThisMachine:
    """The same asset, unchanged; docs/ray.md and the example's page do that too."""

    @pytest.mark.all_faults
    def test_it_runs_here(self, instance: dg.DagsterInstance, payload: Write) -> None:
        path = payload(SQUARES.format(count=6))
        result = run_asset(asset_of(path, launcher=RayLauncher()), ComputeResource(mode="local"), instance)
        assert result.success, compute_log(result, instance, "stderr")
        assert "sum 55\n" in compute_log(result, instance)
        assert f"cpus {float(len(os.sched_getaffinity(0)))}" in compute_log(result, instance)
        assert any("Ray's dashboard: http://" in text for text in log_messages(result, instance))

    @pytest.mark.all_faults
    def test_a_cluster_that_is_there_already(
        self, by_hand: str, instance: dg.DagsterInstance, payload: Write, tmp_path: Path
    ) -> None:
        """It is used, and goes on; if it is of another Ray, that is said before the payload begins."""
        launcher = RayLauncher(ray_address=by_hand)
        path = payload("import ray\nray.init()\nprint('begun', ray.cluster_resources()['by_hand'])\n")
        for _ in range(2):
            result = run_asset(asset_of(path, launcher=launcher), ComputeResource(mode="local"), instance)
            assert "begun 7.0\n" in compute_log(result, instance), compute_log(result, instance, "stderr")

        about = tmp_path / "other" / "ray-1.2.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Name: ray\nVersion: 1.2\n")
        other = {"PYTHONPATH": str(about.parent)}
        asset = asset_of(path, launcher=launcher, extra_env=other)
        result = run_asset(asset, ComputeResource(mode="local"), instance)
        assert "begun" not in compute_log(result, instance)
        python = f"with Python {platform.python_version()}"
        mine = f"the payload's environment on {platform.node()} Ray 1.2 {python}"
        assert f"{by_hand} has Ray {version('ray')} {python}, and {mine}" in failure_of(result)[1]
