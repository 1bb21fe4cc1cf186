"""Launchers with hooks and requirements, in both modes."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import BashLauncher, ComputeResource, Hook, JobRequest, LaunchPlan, Payload, Place, Requirements
from dagster_slurm.process_identity import of_session
from dagster_slurm.sandbox import Sandbox
from tests.support.waiting import eventually

from .conftest import asset_of, compute_log, failure_of, log_messages, run_asset

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("local_store")]

Make = Callable[..., ComputeResource]
Write = Callable[..., Path]

HELPER = """
# A process that the payload talks to, as long as it runs.
helper_begin() {
    mkfifo "$place/questions"
    { while read -r helper_said; do echo "helper heard $helper_said"; done <>"$place/questions"; } &
    helper_pid=$!
    export QUESTIONS=$place/questions
}
helper_enter() { [ "${PWD##*/}" != nowhere ]; }
helper_end() { kill "$helper_pid" && say "helper is stopped"; }
helper_leave() { echo "left by $helper_name" >>"$place/work/left.txt"; }
"""


class Helped(BashLauncher):
    """Starts a helper before the payload, and stops it afterwards."""

    name: str = "nobody"
    begins_with: str = ""
    tasks_per_node: int = 1

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        plan = super().plan(payload, place)
        shell = HELPER.replace("helper_begin() {", f"helper_begin() {{ {self.begins_with}")
        return dataclasses.replace(plan, hooks=(Hook("helper", shell, {"name": self.name}),))

    def requirements(self, request: JobRequest | None) -> Requirements:
        if self.tasks_per_node > 2:
            return Requirements(refusals=(f"tasks_per_node is {self.tasks_per_node}, and 2 is the most",))
        return Requirements({"ntasks_per_node": self.tasks_per_node, "no_kill": True})


def said(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> list[str]:
    return (compute_log(result, instance) + compute_log(result, instance, "stderr")).splitlines()


class TestInBothModes:
    """The same on this machine and on the cluster."""

    @pytest.mark.parametrize("scratch", [False, True])
    def test_a_helper_beside_the_payload(
        self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write, tmp_path: Path, scratch: bool
    ) -> None:
        path = payload('echo "a word" >"$QUESTIONS"; sleep 0.5; touch of-the-payload\n', "p.sh")
        outputs = ["left.txt", "of-the-payload"]
        call = {"launcher": Helped(name="it's $me"), "outputs": outputs, "outputs_dir": tmp_path / "to"}
        result = run_asset(asset_of(path, scratch=scratch, **call), compute, instance)
        assert result.success
        assert {"helper heard a word", "dagster-slurm: helper is stopped"} <= set(said(result, instance))
        assert (tmp_path / "to/left.txt").read_text() == "left by it's $me\n"
        assert (tmp_path / "to/of-the-payload").exists()

    def test_a_payload_that_fails(self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
        path = payload("exit 9\n", "p.sh")
        result = run_asset(asset_of(path, launcher=Helped()), compute, instance)
        kind, text = failure_of(result)
        assert (kind, "exit code 9" in text) == ("PayloadFailedError", True)
        assert "dagster-slurm: helper is stopped" in said(result, instance)

    @pytest.mark.parametrize(("begins", "code"), [("return 1", 74), ("return 3", 3)])
    def test_a_hook_that_cannot_begin(
        self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write, begins: str, code: int
    ) -> None:
        path = payload("echo ran\n", "p.sh")
        result = run_asset(asset_of(path, launcher=Helped(begins_with=f"{begins};")), compute, instance)
        kind, text = failure_of(result)
        assert kind == "PayloadFailedError"
        assert f"exit code {code}" in text
        assert "dagster-slurm: helper_begin has failed with status" in text
        assert "ran" not in said(result, instance)

    def test_a_refusal(self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
        result = run_asset(asset_of(payload("true\n", "p.sh"), launcher=Helped(tasks_per_node=3)), compute, instance)
        assert failure_of(result) == (
            "InvalidRequestError",
            "dagster_slurm.errors.InvalidRequestError: Helped cannot start the payload: "
            "tasks_per_node is 3, and 2 is the most\n",
        )
        assert not [text for text in log_messages(result, instance) if "Submitted" in text or "Running" in text]

    def test_in_each_task_of_an_array(
        self, compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
    ) -> None:
        path = payload(
            'echo "$DAGSTER_SLURM_PARTITION_KEY" >"$QUESTIONS"; sleep 0.5; [ "$DAGSTER_SLURM_PARTITION_KEY" != b ]\n',
            "p.sh",
        )

        @dg.asset(
            partitions_def=dg.StaticPartitionsDefinition(["a", "b", "c"]),
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def parted(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
            return compute.run_partitions(context, path, launcher=Helped()).get_materialize_result()

        tags = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"}
        job = dg.Definitions(assets=[parted], resources={"compute": compute}).resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
        assert not result.success
        lines = said(result, instance)
        for key in "abc":
            assert [line for line in lines if line.endswith(f"helper heard {key}")], lines
        assert {f"[{key}] dagster-slurm: helper is stopped" for key in "abc"} <= set(lines)
        made = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        assert {entry.dagster_event.partition for entry in made if entry.dagster_event} == {"a", "c"}


@pytest.mark.cluster
class TestOnTheCluster:
    """What a launcher asks of Slurm."""

    def test_options_of_a_launcher(
        self, slurm: Make, instance: dg.DagsterInstance, payload: Write, sandbox: Sandbox
    ) -> None:
        path = payload('echo "$SLURM_NTASKS_PER_NODE tasks"\n', "p.sh")
        compute = slurm(default_launcher=Helped(tasks_per_node=2))
        plan = compute.plan(None, path)
        options = {each.name: (each.value, each.source) for each in plan.options}
        assert options["--ntasks-per-node"] == ("2", "launcher")
        assert options["--no-kill"] == ("", "launcher")
        assert "| --no-kill " in str(plan)
        assert "helper_begin" in plan.script
        result = run_asset(asset_of(path), compute, instance)
        assert "2 tasks" in said(result, instance)
        result = run_asset(asset_of(path, extra_slurm_opts={"ntasks_per_node": 1}), compute, instance)
        assert "1 tasks" in said(result, instance)

    def test_what_is_refused_is_not_uploaded(
        self, slurm: Make, instance: dg.DagsterInstance, payload: Write, remote_files: Callable[[], list[str]]
    ) -> None:
        path = payload("true\n", "p.sh")
        assert not run_asset(asset_of(path, launcher=Helped(tasks_per_node=3)), slurm(), instance).success
        assert remote_files() == []


INTERRUPTED = """
import sys
from dagster_slurm.launchers import Hook, LaunchPlan, script_here
from dagster_slurm.job.events import Output, Subscription
from dagster_slurm.work.here import Process
from pathlib import Path

directory, payload, shell = sys.argv[1:]
plan = LaunchPlan((), ("bash", "-c", payload), (Hook("helper", shell, {"name": "me"}),))

subscription = Subscription()
process = Process(script_here(plan, directory), Path(directory, "messages"), subscription)
while True:
    event = subscription.get(30.0)
    if isinstance(event, Output) and b"up" in event.data:
        break
process.end()
"""


@pytest.mark.parametrize(
    "payload",
    [
        'trap "echo told >>told; exit" TERM; echo up; while :; do sleep 0.05; done',
        "(setsid -w sleep 300 &); (set -m; sleep 300 &); echo up; exec sleep 300",
    ],
    ids=["that ends", "with processes in groups of their own"],
)
def test_interrupted_on_this_machine(tmp_path: Path, payload: str) -> None:
    for name in ("env.sh", "messages"):
        (tmp_path / name).touch()
    (tmp_path / "work").mkdir()
    shell = HELPER + 'helper_enter() { echo "$$" >"$place/session"; }\n'
    subprocess.run([sys.executable, "-c", INTERRUPTED, tmp_path, payload, shell], check=True, timeout=60)
    assert (tmp_path / "work/left.txt").read_text() == "left by me\n"
    assert (tmp_path / "work/told").exists() is ("told" in payload)
    session = int((tmp_path / "session").read_text())
    eventually(lambda: not of_session(session))
