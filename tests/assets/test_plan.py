"""`compute.plan` on the sandbox: what it says is what then happens, and by itself nothing does."""

import functools
import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, JobPlan, RemotePath, SlurmRunConfig, UvEnvironment
from dagster_slurm.errors import EnvironmentNotFoundError, InvalidRequestError, SubmissionRejectedError
from dagster_slurm.sandbox import Sandbox
from tests.support.instances import empty_instance
from tests.support.slurm_jobs import submitted_jobs

from ..environments.projects import Package, Project
from .conftest import asset_of, run_asset

pytestmark = pytest.mark.cluster

PYTHON = "/usr/bin/python3"
Write = Callable[..., Path]
Make = Callable[..., ComputeResource]


@pytest.fixture
def base() -> str:
    """A directory for runs that no test has used before, seen from the home directory."""
    return f"test-runs/plan-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def slurm(slurm: Make, base: str) -> Make:
    return functools.partial(slurm, remote_base=f"~/{base}")


@pytest.fixture
def base_exists(sandbox: Sandbox, base: str) -> Callable[[], bool]:
    """Whether there is anything in that directory."""
    return lambda: sandbox.run(["sh", "-c", f"test -e ~/{base}"]).returncode == 0


def upload(plan: JobPlan, what: str) -> tuple[int, int, int]:
    """Files, bytes, and files that would be sent."""
    (found,) = [each for each in plan.uploads if each.what == what]
    return len(found.files), found.size_bytes, len(found.missing)


def test_a_call_with_settings_from_everywhere(
    slurm: Make, sandbox: Sandbox, payload: Write, base_exists: Callable[[], bool], tmp_path: Path
) -> None:
    path, data = payload("print(1)\n"), tmp_path / "data.csv"
    data.write_text("1,2\n")
    plans = []

    @dg.asset(metadata={"slurm": {"cpus": 2}})
    def model(context: dg.AssetExecutionContext, compute: ComputeResource, config: SlurmRunConfig) -> None:
        options = {"time_limit": "00:03:00"}
        call: dict[str, Any] = {"config": config, "extra_slurm_opts": options, "inputs": [data], "extra_files": [data]}
        call |= {"inputs": {"input.csv": data}, "extra_env": {"TOKEN": "s3cret"}, "extras": {"key": "s3cret"}}
        plans.append(compute.plan(context, path, **call))

    before = submitted_jobs(sandbox)
    launchpad = {"ops": {"model": {"config": {"extra_slurm_opts": {"nodes": 2}}}}}
    resources = {"compute": slurm(max_node_hours=1)}
    with empty_instance() as instance:
        dg.materialize([model], resources=resources, run_config=launchpad, instance=instance)
    (plan,) = plans
    sources = {option.name: (option.value, option.source) for option in plan.options}
    assert sources["--time"] == ("00:03:00", "call")
    assert sources["--nodes"] == ("2", "launchpad")
    assert sources["--cpus-per-task"] == ("2", "asset metadata")
    assert sources["--mem"] == ("300M", "resource")
    assert sources["--open-mode"] == ("append", "built-in")
    assert (plan.node_hours, plan.max_node_hours) == (0.1, 1)
    assert plan.start is not None
    assert abs(plan.start - datetime.now(timezone.utc)) < timedelta(minutes=10)
    assert upload(plan, "payload") == (1, path.stat().st_size, 1)
    assert upload(plan, "extra files") == upload(plan, "inputs") == (1, 4, 1)
    assert "s3cret" not in f"{plan}{json.dumps(plan.as_json())}{plan!r}"
    assert (plan.variables, plan.extras) == (("TOKEN",), ("key",))
    assert submitted_jobs(sandbox) == before
    assert not base_exists()


def test_the_script_is_the_one_that_is_submitted(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write, base: str
) -> None:
    path, compute = payload("print(1)\n"), slurm(debug_mode=True)
    options = {"extra_slurm_opts": {"comment": "a b", "nice": 3}, "scratch": True}
    plan = compute.plan(payload_path=path, **options)
    assert run_asset(asset_of(path, **options), compute, instance).success
    (found,) = sandbox.run(["sh", "-c", f"ls -d ~/{base}/runs/*/*/0"]).stdout.split()
    assert sandbox.run(["cat", f"{found}/job.sh"]).stdout == plan.script.replace(plan.directory, found)


def test_the_script_of_partitions_is_the_one_that_is_submitted(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write, base: str
) -> None:
    path, compute = payload("print(1)\n"), slurm(debug_mode=True)
    partitions = dg.StaticPartitionsDefinition(["a", "b", "c"])

    @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def model(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        return compute.run_partitions(context, path, max_parallel=2).get_materialize_result()

    plan = compute.plan(payload_path=path, partitions=3, max_parallel=2)
    assert "#SBATCH --array=0-2%2\n" in plan.script
    tags = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"}
    assert run_asset(model, compute, instance, tags=tags).success
    (found,) = sandbox.run(["sh", "-c", f"ls -d ~/{base}/runs/*/*/0"]).stdout.split()
    assert sandbox.run(["cat", f"{found}/job.sh"]).stdout == plan.script.replace(plan.directory, found)


def test_inputs_that_are_there(slurm: Make, instance: dg.DagsterInstance, payload: Write, tmp_path: Path) -> None:
    path, compute = payload("print(1)\n"), slurm()
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
    assert run_asset(asset_of(path, inputs=[tmp_path / "old"]), compute, instance).success
    inputs = {"old": tmp_path / "old", "new": tmp_path / "new", "there": RemotePath("/etc/passwd")}
    plan = compute.plan(payload_path=path, inputs=inputs)
    assert upload(plan, "inputs") == (3, 6, 1)
    with pytest.raises(InvalidRequestError, match="There is no /nothing on the cluster"):
        compute.plan(payload_path=path, inputs={"there": RemotePath("/nothing")})


def test_an_environment_that_is_not_there_and_one_that_is(
    slurm: Make, instance: dg.DagsterInstance, payload: Write, tmp_path: Path, base_exists: Callable[[], bool]
) -> None:
    directory = tmp_path / "project"
    directory.mkdir()
    project = Project(directory, [Package("waves"), Package("radar")], {"gpu": ["radar"]})
    environment = UvEnvironment(project_dir=str(project.write()), python=PYTHON)
    path, compute = payload("print(1)\n"), slurm(pre_deployed_env_path=None, environment=environment)
    plan = compute.plan(payload_path=path)
    count, size, missing = upload(plan, "environment")
    assert count == missing > 2
    assert size > 0
    assert plan.environment.endswith(", which would be installed first")
    assert not base_exists()
    assert run_asset(asset_of(path), compute, instance).success
    again = compute.plan(payload_path=path)
    assert upload(again, "environment") == (0, 0, 0)
    assert "installed" not in again.environment
    anew = compute.plan(payload_path=path, force_env_push=True)
    assert upload(anew, "environment")[2] < count, "what can be told to be there is not sent again"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"account": "nope"}, r"\(account 'nope'\).*\nKnown to this user on the cluster: research"),
        ({"partition": "nope"}, r"\(partition 'nope'\).*\nKnown to this user on the cluster: .*compute"),
    ],
)
def test_what_slurm_would_refuse(slurm: Make, payload: Write, options: dict[str, object], said: str) -> None:
    with pytest.raises(SubmissionRejectedError, match=said):
        slurm().plan(payload_path=payload("print(1)\n"), extra_slurm_opts=options)


def test_an_environment_that_is_not_on_the_cluster(slurm: Make, payload: Write) -> None:
    with pytest.raises(EnvironmentNotFoundError):
        slurm(pre_deployed_env_path="/nothing").plan(payload_path=payload("print(1)\n"))


def test_a_start_that_is_too_late(slurm: Make, payload: Write) -> None:
    late = {"begin": "now+2hours", "max_queue_hours": 1}
    plan = slurm().plan(payload_path=payload("print(1)\n"), extra_slurm_opts=late)
    assert plan.start is not None
    assert timedelta(minutes=110) < plan.start - datetime.now(timezone.utc) < timedelta(minutes=130)
    assert plan.warnings == ("By Slurm's estimate it waits longer than max_queue_hours, and would be given up",)


def test_a_payload_of_the_cluster(slurm: Make, payload: Write) -> None:
    plan = slurm().plan(payload_path="a.py", remote_payload_path="/nothing/a.py")
    assert upload(plan, "payload") == (0, 0, 0)
    assert plan.warnings == ("There is no payload /nothing/a.py on the cluster",)
