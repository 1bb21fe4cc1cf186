"""Data of assets, in both modes: in, out, on the node, and from one to the next."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, RemotePath, SlurmPathIOManager, SlurmRunConfig
from dagster_slurm.pipes.tidy import TIDY
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.staging.collect import Collector
from tests.support.waiting import eventually

from . import retried as project
from .conftest import asset_of, compute_log, failure_of, log_messages, metadata_of, run_asset
from .test_retries import World

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("local_store")]

Write = Callable[..., Path]
Make = Callable[..., ComputeResource]
Files = Callable[[], list[str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    (directory / "2024").mkdir(parents=True)
    for name in ("2024/a.csv", "2024/b.csv", "model.txt"):
        (directory / name).write_text(f"{name}\n")
    return directory


def below(directory: Path) -> dict[str, str]:
    return {path.relative_to(directory).as_posix(): path.read_text() for path in directory.rglob("*") if path.is_file()}


class TestInBothModes:
    """The same on this machine and on the cluster."""

    def test_in_by_path_and_glob_and_out(
        self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write, data: Path, tmp_path: Path
    ) -> None:
        path = payload("find . -type f | sort; mkdir out; cat */*/*.csv m >out/all.txt; echo x >out/no.log", "p.sh")
        inputs = {"stations": data / "**/*.csv", "m": data / "model.txt"}
        result = run_asset(
            asset_of(path, inputs=inputs, outputs=["out/*.txt"], outputs_dir=tmp_path / "to"), compute, instance
        )
        assert result.success
        assert compute_log(result, instance).split() == [
            "./m",
            "./p.sh",
            "./stations/2024/a.csv",
            "./stations/2024/b.csv",
        ]
        assert below(tmp_path / "to") == {"out/all.txt": "2024/a.csv\n2024/b.csv\nmodel.txt\n"}
        assert metadata_of(result)["slurm_outputs"] == [str(tmp_path / "to/out/all.txt")]

    def test_what_the_asset_and_the_launchpad_say(
        self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write, data: Path
    ) -> None:
        path = payload("cat model.txt >copy.txt; cat 2024/a.csv >>copy.txt || :", "p.sh")

        @dg.asset(
            partitions_def=dg.StaticPartitionsDefinition(["north/east"]),
            key_prefix="deep",
            metadata={"slurm_inputs": [str(data / "model.txt")], "slurm_outputs": ["copy.txt"], "slurm_scratch": True},
        )
        def measured(context: dg.AssetExecutionContext, compute: ComputeResource, config: SlurmRunConfig):
            return compute.run(context, path, config=config).get_materialize_result()

        config = dg.RunConfig(
            ops={"deep__measured": SlurmRunConfig(inputs=[str(data / "model.txt"), str(data / "2024")])}
        )
        result = run_asset(measured, compute, instance, partition_key="north/east", run_config=config)
        assert result.success
        place = Path(instance.storage_directory()) / "slurm_outputs/deep/measured/north%2Feast"
        assert below(place) == {"copy.txt": "model.txt\n2024/a.csv\n"}

    def test_on_the_node(
        self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write, data: Path, tmp_path: Path
    ) -> None:
        text = (
            '[ "$PWD" = "$DAGSTER_SLURM_SCRATCH" ] && pwd && cat model.txt >out.txt && mkdir d && echo 1 >d/x && ls -a'
        )
        call: dict[str, Any] = {"inputs": [data / "model.txt"], "outputs": ["*.txt", "d"], "scratch": "/tmp"}
        result = run_asset(asset_of(payload(text, "p.sh"), outputs_dir=tmp_path / "to", **call), compute, instance)
        assert result.success
        scratch, *listed = compute_log(result, instance).splitlines()
        assert scratch.startswith("/tmp/dagster-slurm.")
        assert listed == [".", "..", "d", "model.txt", "out.txt", "p.sh"]
        # All nodes of the sandbox are this machine.
        assert not Path(scratch).exists()
        assert below(tmp_path / "to") == {"out.txt": "model.txt\n", "d/x": "1\n"}

    @pytest.mark.parametrize("is_said", [False, True])
    def test_without_dagster_home(
        self, compute: ComputeResource, payload: Write, tmp_path: Path, sandbox: Sandbox, is_said: bool
    ) -> None:
        """What was fetched went with a temporary directory, and was removed on the cluster before."""
        path = payload("echo 1 >out.txt", "p.sh")
        call = {"outputs_dir": tmp_path / "to"} if is_said else {}
        with dg.DagsterInstance.ephemeral() as instance:
            result = run_asset(asset_of(path, outputs=["out.txt"], **call), compute, instance)
            assert result.success
            TIDY.look()
            told = [text for text in log_messages(result, instance) if "DAGSTER_HOME is not set" in text]
            assert len(told) == (not is_said)
        if compute.mode == "slurm":
            # It is removed in the background of the login node.
            left = lambda: list(sandbox.home.glob(f"test-runs/{tmp_path.name}/runs/*/*/0/work/out.txt"))  # noqa: E731
            eventually(lambda: len(left()) == (not is_said), "what is left on the cluster")

    def test_the_exit_code_stays_the_payloads(
        self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
    ) -> None:
        path = payload("echo half >out.txt; exit 7", "p.sh")
        result = run_asset(asset_of(path, outputs=["out.txt"], scratch=True), compute, instance)
        name, text = failure_of(result)
        assert name == "PayloadFailedError"
        assert "exit code 7" in text

    def test_a_missing_output(
        self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write, data: Path
    ) -> None:
        path = payload("echo 1 >there.csv", "p.sh")
        asset = asset_of(path, inputs=[data / "model.txt"], outputs=["*.csv", "*.nc"])
        result = run_asset(asset, compute, instance)
        name, text = failure_of(result)
        assert name == "OutputNotFoundError"
        assert "'*.nc'. There is: there.csv." in text

    @pytest.mark.parametrize(
        ("call", "name"),
        [
            ({"inputs": ["nothing/*.csv"]}, "InvalidRequestError"),
            ({"inputs": ["absent.csv"]}, "PayloadNotFoundError"),
            ({"inputs": {"p.sh": "p.sh"}}, "InvalidRequestError"),
            ({"inputs": {"x": RemotePath("/x", "elsewhere")}}, "InvalidRequestError"),
            ({"inputs": {"x": RemotePath("/nowhere/x")}}, "InvalidRequestError"),
            ({"outputs": ["../x"]}, "InvalidRequestError"),
        ],
    )
    def test_what_is_refused_runs_nothing(
        self,
        compute: ComputeResource,
        instance: dg.DagsterInstance,
        payload: Write,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        call: dict[str, Any],
        name: str,
    ) -> None:
        path = payload("echo ran", "p.sh")
        monkeypatch.chdir(tmp_path)
        result = run_asset(asset_of(path, **call), compute, instance)
        assert failure_of(result)[0] == name
        assert not any("Submitted" in message or "Running" in message for message in log_messages(result, instance))

    def test_from_one_job_to_the_next(
        self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
    ) -> None:
        assert self.two_assets(compute, instance, payload)

    def two_assets(
        self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
    ) -> dg.ExecuteInProcessResult:
        """The second reads what the first has left, in place."""
        first = payload("mkdir -p waves; echo high >waves/today.txt; echo unwanted >other", "first.sh")
        second = payload(
            "readlink -f waves; cat waves/today.txt; echo low >>waves/today.txt || echo refused", "second.sh"
        )

        @dg.asset(io_manager_key="on_cluster")
        def waves(context: dg.AssetExecutionContext, compute: ComputeResource):
            return compute.run(context, first, keep_on_cluster=["waves"]).get_kept_result()

        @dg.asset
        def read(context: dg.AssetExecutionContext, compute: ComputeResource, waves: RemotePath):
            return compute.run(context, second, inputs={"waves": waves}).get_materialize_result()

        result = dg.materialize(
            [waves, read], resources={"compute": compute, "on_cluster": SlurmPathIOManager()}, instance=instance
        )
        stored = next(
            event.materialization.metadata
            for event in result.get_asset_materialization_events()
            if event.asset_key == dg.AssetKey("waves")
        )
        (captured,) = [
            event
            for event in result.filter_events(lambda event: event.event_type_value == "LOGS_CAPTURED")
            if "read" in str(event.event_specific_data.step_keys)
        ]
        key = [result.run_id, "compute_logs", captured.event_specific_data.file_key]
        said = (instance.compute_log_manager.get_log_data(key).stdout or b"").decode().splitlines()
        assert said[:2] == [stored["slurm_path"].value, "high"]
        assert f"/{result.run_id}.0/waves" in stored["slurm_path"].value
        return result

    def test_partitions_of_kept_results(
        self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
    ) -> None:
        """Of a run of one partition, and of one of a range, of which one fails."""
        first = payload(
            ': "${PART:=$DAGSTER_SLURM_PARTITION_KEY}"; [ $PART != mar ] || exit 3; echo $PART >part.txt', "p.sh"
        )
        second = payload("cat */part.txt", "second.sh")
        months = dg.StaticPartitionsDefinition(["jan", "feb", "mar", "apr"])

        @dg.asset(partitions_def=months, io_manager_key="on_cluster", backfill_policy=dg.BackfillPolicy.single_run())
        def parts(context: dg.AssetExecutionContext, compute: ComputeResource):
            if len(context.partition_keys) > 1:
                return compute.run_partitions(context, first, keep_on_cluster=["part.txt"]).get_kept_result()
            run = compute.run(context, first, extra_env={"PART": context.partition_key}, keep_on_cluster=["part.txt"])
            return run.get_kept_result("part.txt")

        @dg.asset(ins={"parts": dg.AssetIn(metadata={"allow_missing_partitions": True})})
        def whole(context: dg.AssetExecutionContext, compute: ComputeResource, parts: dict[str, RemotePath]):
            inputs = {f"{key}/part.txt": path for key, path in parts.items()}
            return compute.run(context, second, inputs=inputs).get_materialize_result()

        resources = {"compute": compute, "on_cluster": SlurmPathIOManager()}
        assert dg.materialize([parts], resources=resources, instance=instance, partition_key="jan").success
        tags = {"dagster/asset_partition_range_start": "feb", "dagster/asset_partition_range_end": "apr"}
        done = dg.materialize([parts], resources=resources, instance=instance, tags=tags, raise_on_error=False)
        assert "Exit code 3" in failure_of(done)[1]
        result = dg.materialize([parts, whole], selection=[whole], resources=resources, instance=instance)
        assert sorted(compute_log(result, instance).split()) == ["apr", "feb", "jan"]


@pytest.mark.cluster
class TestOnTheCluster:
    """What lies there, and what a retry does."""

    @pytest.fixture(autouse=True)
    def nothing_is_left(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Of a test of that name that ran before: data and results stay."""
        sandbox.run(["sh", "-c", f"rm -rf ~/test-runs/{tmp_path.name}"])

    def test_one_copy_of_what_is_kept_and_nothing_of_the_runs(
        self, slurm: Make, instance: dg.DagsterInstance, payload: Write, remote_files: Files
    ) -> None:
        result = TestInBothModes().two_assets(slurm(), instance, payload)
        eventually(lambda: not [name for name in remote_files() if name.startswith("./runs/")])
        place = f"./results/waves/{result.run_id}.0"
        assert [name for name in remote_files() if "waves" in name or "today" in name] == [f"{place}/waves/today.txt"]

    def test_inputs_are_sent_once(
        self, slurm: Make, instance: dg.DagsterInstance, payload: Write, data: Path, remote_files: Files
    ) -> None:
        asset = asset_of(payload("cat data/*/*.csv", "p.sh"), inputs=[data])
        first, second = (run_asset(asset, slurm(), instance) for _ in range(2))
        told = [
            [line for line in log_messages(each, instance) if line.startswith("Inputs:")] for each in (first, second)
        ]
        assert "3 files, 3 of them uploaded" in told[0][0]
        assert "3 files, 0 of them uploaded" in told[1][0]
        eventually(lambda: len([name for name in remote_files() if name.startswith("./data/")]) == 3)

    def test_after_a_missing_output_the_directory_stays_and_a_retry_collects(
        self, sandbox: Sandbox, instance: dg.DagsterInstance, slurm: Make, tmp_path: Path, remote_files: Files
    ) -> None:
        world = World(sandbox, instance, slurm, tmp_path)
        world.payload(world.settings.payload, pause=0.01, then="echo 1 >result.csv\n")
        world.settings.call = {"outputs": ["resul.csv"], "outputs_dir": tmp_path / "to"}
        try:
            result = world.execute("retried")
            assert world.status(result) is dg.DagsterRunStatus.FAILURE
            assert [name for name in remote_files() if name.endswith("/work/result.csv")]
            # The policy of the step has not tried again.
            assert world.settings.bodies == ["retried"]
            world.settings.call["outputs"] = ["result.csv"]
            assert world.again(result, "retried").success
        finally:
            project.SETTINGS = project.Settings()
        assert len(world.marks()) == 1
        assert below(tmp_path / "to") == {"result.csv": "1\n"}
        eventually(lambda: not [name for name in remote_files() if name.startswith("./runs/")])

    @pytest.mark.parametrize("ended_meanwhile", [False, True], ids=["still running", "ended meanwhile"])
    def test_a_retry_that_reattaches_fetches(
        self, sandbox: Sandbox, instance: dg.DagsterInstance, slurm: Make, tmp_path: Path, ended_meanwhile: bool
    ) -> None:
        world = World(sandbox, instance, slurm, tmp_path)
        pause = 0.8 if ended_meanwhile else 2.0
        world.payload(world.settings.payload, pause=pause, then="mkdir out; echo 1 >out/result.csv; echo 2 >out/kept\n")
        call = {"outputs": ["out/*.csv"], "outputs_dir": tmp_path / "to", "keep_on_cluster": ["out/kept"]}
        world.settings.call = {**call, "scratch": True}
        try:
            thread = world.while_it_runs(world.interrupt)
            result = world.execute()
            thread.join()
            assert not below(tmp_path / "to")
            (job_id,) = world.marks()
            if ended_meanwhile:
                eventually(lambda: world.state(job_id) == "COMPLETED")
            again = world.again(result)
            assert again.success
        finally:
            project.SETTINGS = project.Settings()
        assert world.marks() == [job_id]
        assert below(tmp_path / "to") == {"out/result.csv": "1\n"}
        assert any(
            f"/{result.run_id}.0" in line for line in log_messages(again, instance) if line.startswith("Kept on")
        )  # type: ignore[arg-type]

    @pytest.mark.parametrize("terminated", [False, True], ids=["interrupted", "terminated"])
    def test_while_outputs_are_fetched(
        self,
        sandbox: Sandbox,
        instance: dg.DagsterInstance,
        slurm: Make,
        tmp_path: Path,
        remote_files: Files,
        monkeypatch: pytest.MonkeyPatch,
        terminated: bool,
    ) -> None:
        world = World(sandbox, instance, slurm, tmp_path)
        world.payload(world.settings.payload, pause=0.01, then="echo 1 >result.csv\n")
        world.settings.call = {"outputs": ["result.csv"], "outputs_dir": tmp_path / "to"}
        begun, over = threading.Event(), threading.Event()

        def slow(*args: object, **call: object) -> None:
            begun.set()
            over.wait(60)
            # Outside of tests its process has ended by now, and this thread with it.
            sys.exit()

        def disturb() -> None:
            begun.wait(60)
            if terminated:
                (run,) = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
                instance.report_run_canceling(run)
            for _ in range(1 if terminated else 2):
                os.kill(os.getpid(), signal.SIGINT)
                # The main thread looks every 0.2 s, and two signals within a second are one.
                time.sleep(1.6)
            over.set()

        thread = threading.Thread(target=disturb)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(Collector, "collect", slow)
                thread.start()
                result = world.execute()
                thread.join()
            status = dg.DagsterRunStatus.CANCELED if terminated else dg.DagsterRunStatus.FAILURE
            assert world.status(result) is status
            # It has ended, and what it left is still to be read.
            assert [name for name in remote_files() if name.endswith("/work/result.csv")]
            if terminated:
                assert not below(tmp_path / "to")
                return
            assert world.again(result).success
        finally:
            project.SETTINGS = project.Settings()
        assert len(world.marks()) == 1
        assert below(tmp_path / "to") == {"result.csv": "1\n"}

    def test_a_signal_before_the_timeout_brings_the_outputs_back(
        self, slurm: Make, instance: dg.DagsterInstance, payload: Write, remote_files: Files, sandbox: Sandbox
    ) -> None:
        text = 'trap "echo saved >state.txt; exit 5" USR1; echo ready; while :; do sleep 0.1; done'
        compute = slurm(cleanup_on_failure=False)
        results: list[dg.ExecuteInProcessResult] = []
        asset = asset_of(payload(text, "p.sh"), outputs=["state.txt"], scratch=True)
        thread = threading.Thread(target=lambda: results.append(run_asset(asset, compute, instance)))
        thread.start()
        job_id = _job_that_runs(instance)
        time.sleep(1)
        sandbox.run(["scancel", "--batch", "--signal=USR1", job_id])
        thread.join()
        assert "exit code 5" in failure_of(results[0])[1]
        assert [name for name in remote_files() if name.endswith("/work/state.txt")]

    def test_a_scratch_that_cannot_be_had(self, slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
        result = run_asset(asset_of(payload("echo ran", "p.sh"), scratch="/proc/none"), slurm(), instance)
        name, text = failure_of(result)
        assert name == "PayloadFailedError"
        assert "there can be no scratch directory in /proc/none; nothing was run" in text
        assert "exit code 74" in text

    def test_a_copy_back_that_fails(self, slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
        text = "echo 1 >out; chmod 000 out"
        result = run_asset(asset_of(payload(text, "p.sh"), outputs=["out"], scratch=True), slurm(), instance)
        _, told = failure_of(result)
        assert "cannot copy the outputs from /" in told
        assert "exit code 74" in told


def _job_that_runs(instance: dg.DagsterInstance) -> str:
    def job_id() -> str:
        runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        lines = [entry.user_message for run in runs for entry in instance.all_logs(run.run_id)]
        return next((line.split()[2] for line in lines if line.startswith("Slurm job") and " runs on " in line), "")

    eventually(lambda: bool(job_id()))
    return job_id()
