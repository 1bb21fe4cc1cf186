"""Calls that share one allocation of Slurm."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from dagster_slurm import ComputeResource, SlurmAllocationScope, SlurmRunAllocationConfig, SlurmSessionResource
from dagster_slurm.cli import main
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.sandbox import Sandbox
from tests.assets.conftest import asset_of, echo_back, log_messages, metadata_of, run_asset
from tests.support.slurm_jobs import queued_jobs
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster

Payload = Callable[..., Path]


@pytest.fixture
def session(slurm: Callable[..., ComputeResource]) -> Callable[..., ComputeResource]:
    """Makes compute resources with a session on the sandbox."""

    def make(**fields: Any) -> ComputeResource:
        shape = {"num_nodes": 1, "cpus_per_task": 4, "mem": "1G", "time_limit": "00:10:00", "idle_timeout_seconds": 60}
        return slurm(mode="slurm-session", session=SlurmSessionResource(**{**shape, **fields}))

    return make


class TestOneStep:
    def test_reports_as_a_job_does(
        self, session: Callable[..., ComputeResource], payload: Payload, instance: dg.DagsterInstance
    ) -> None:
        path = payload(echo_back(cpus="os.environ['SLURM_CPUS_ON_NODE']", nodes="os.environ['SLURM_JOB_NODELIST']"))
        result = run_asset(asset_of(path), session(), instance)
        assert result.success, log_messages(result, instance)
        found = metadata_of(result)
        job, step = found["slurm_job_id"].split(".")
        assert (int(job) > 0, step, found["slurm_state"]) == (True, "0", "COMPLETED")
        # A quarter of the CPUs of a node, and more than that of its memory: 300 of 1,024 MiB.
        assert found["node_hours"] == pytest.approx(found["elapsed_seconds"] / 3600 * 300 / 1024, rel=0.05, abs=1e-6)
        assert found["max_memory_mb"] < 300
        lines = log_messages(result, instance)
        assert any("as the allocation of the run's session" in line for line in lines)
        assert any(line.startswith(f"Slurm step {job}.r1 runs on n") for line in lines)

    def test_the_controller_is_asked_for_steps_and_no_more(
        self, session: Callable[..., ComputeResource], payload: Payload, instance: dg.DagsterInstance, sandbox: Sandbox
    ) -> None:
        """A step is created and completed; neither squeue nor sacct is asked about each."""
        path = payload("echo done\n", "payload.sh")

        @dg.asset
        def stepped(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
            for number in range(12):
                done = compute.run(context, path, name=str(number))
            return done.get_materialize_result()

        before = sandbox.rpc_counts()
        result = run_asset(stepped, session(), instance)
        assert result.success, log_messages(result, instance)
        after = sandbox.rpc_counts()
        asked = {name: after[name] - before.get(name, 0) for name in after}
        assert asked["REQUEST_STEP_COMPLETE"] <= 12
        assert (asked["REQUEST_SUBMIT_BATCH_JOB"], asked["REQUEST_JOB_STEP_CREATE"]) == (1, 12)
        assert asked.get("REQUEST_JOB_INFO_SINGLE", 0) + asked.get("REQUEST_JOB_USER_INFO", 0) <= 8, asked


def test_the_command_line_knows_steps(
    session: Callable[..., ComputeResource],
    payload: Payload,
    instance: dg.DagsterInstance,
    sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    path = payload("echo said by a step\n", "payload.sh")
    compute = session(name="of-the-command-line")
    result = run_asset(asset_of(path), compute, instance)
    assert result.success, log_messages(result, instance)
    job, _ = metadata_of(result)["slurm_job_id"].split(".")
    variables = {**sandbox.env(), "SLURM_REMOTE_BASE": f"~/test-runs/{tmp_path.name}", "DAGSTER_HOME": ""}

    def call(*words: str) -> str:
        done = CliRunner().invoke(main, [*words], env=variables, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    (row,) = json.loads(call("sessions", "list", "--json"))["sessions"]
    assert (row["title"], row["job_id"], row["state"]) == ("session 'of-the-command-line'", job, "RUNNING")
    assert job in call("jobs")
    time.sleep(2)  # the accounting has whole seconds: of one it may have nothing, and then nothing was idle
    assert "ends." in call("sessions", "end", "of-the-command-line")
    eventually(lambda: not queued_jobs(sandbox, tmp_path.name), "the end of the session")
    assert "There is no session on" in call("sessions")

    def reported() -> Any:
        # The accounting may be behind.
        told = json.loads(call("report", "--json"))["jobs"]
        return next((each for each in told if each["job_id"] == job and each["idle_node_hours"]), None)

    idled = eventually(reported, "what the session idled")
    assert idled["asset"] == "session 'of-the-command-line'"
    assert 0 < idled["idle_node_hours"] <= idled["node_hours"]


@pytest.mark.parametrize("mode", ["local", "slurm"])
def test_a_session_may_be_named_in_any_mode(
    mode: str, slurm: Callable[..., ComputeResource], payload: Payload, instance: dg.DagsterInstance
) -> None:
    compute = slurm(mode=mode, session=SlurmSessionResource(num_nodes=1))
    result = run_asset(asset_of(payload("echo done\n", "payload.sh")), compute, instance)
    assert result.success, log_messages(result, instance)


def test_the_scope_of_1_22(
    slurm: Callable[..., ComputeResource], payload: Payload, instance: dg.DagsterInstance
) -> None:
    shape = SlurmRunAllocationConfig(cpus_per_task=2, mem="500M", extra_sbatch_directives=["--comment=of-a-run"])
    compute = slurm(allocation_scope=SlurmAllocationScope.RUN, run_allocation=shape)
    result = run_asset(asset_of(payload("echo done\n", "payload.sh")), compute, instance)
    assert result.success, log_messages(result, instance)
    assert metadata_of(result)["slurm_job_id"].endswith(".0")


def test_a_plan_is_of_the_step_and_names_its_session(session: Callable[..., ComputeResource], payload: Payload) -> None:
    path = payload("echo done\n", "payload.sh")
    planned = session().plan(None, path, extra_slurm_opts={"cpus": 2})
    options = {each.name: each.value for each in planned.options}
    assert options["--cpus-per-task"] == "2"
    assert any("It is a step of the run's session" in each and "--cpus-per-task=4" in each for each in planned.warnings)
    # Ten minutes of one node.
    assert planned.node_hours == pytest.approx(1 / 6)
    with pytest.raises(InvalidRequestError, match="The step asks for 5 CPUs on a node"):
        session().plan(None, path, extra_slurm_opts={"cpus": 5})
