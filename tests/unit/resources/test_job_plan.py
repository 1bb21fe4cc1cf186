"""Plans: what is said of a call, and how it reads; no cluster is needed for that."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import dagster as dg
import pytest
from tests.support.scripted import ScriptedTransport

from dagster_slurm import (
    BashLauncher,
    ComputeResource,
    JobPlan,
    RemotePath,
    SlurmQueueConfig,
    SlurmResource,
    SlurmRunConfig,
)
from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import InvalidRequestError, PayloadNotFoundError, SubmissionRejectedError, UnknownOptionError
from dagster_slurm.pipes.step import PlanRefused, Step, StepStopped, dry_run, refuse_in_dry_run, stop_in_dry_run
from dagster_slurm.resources.call import work_of
from dagster_slurm.resources.job_plan import PlannedFile, PlannedSetting, PlannedUpload
from dagster_slurm.resources.plan import facts_of, job_plan
from dagster_slurm.transport.base import CompletedCommand
from dagster_slurm.work.spec import CALL, Said, WorkSpec

PLAN = JobPlan(
    mode="slurm",
    title="train.py on me@login",
    host="me@login",
    directory="/base/runs/RUN_ID/model-0/0",
    script="#!/bin/bash\n#SBATCH --nodes=2\n```\n",
    options=(PlannedSetting("--comment", "a|b", "call"), PlannedSetting("--nodes", "2", "asset metadata")),
    settings=(PlannedSetting("launcher", "BashLauncher", "built-in"),),
    uploads=(
        PlannedUpload("payload", (PlannedFile("train.py", 2048, False),)),
        PlannedUpload("inputs", tuple(PlannedFile(f"{n}.csv", 10, n % 2 == 0) for n in range(12)), "a note"),
        PlannedUpload("environment", (PlannedFile("project", None, None),)),
    ),
    environment="the uv project analysis, which would be installed first",
    variables=("TOKEN",),
    start=datetime(2026, 11, 22, 10, 0, tzinfo=timezone.utc),
    node_hours=2.5,
    max_node_hours=8,
    warnings=("Look here",),
)


AT_80 = """\
# Plan: train.py on me@login

Nothing was uploaded, installed or submitted.

- Runs as a Slurm job, by me@login
- Start: not known: Slurm names no time; nodes that the job needs may be away
- Cost: at most 2.5 node-hours, of 8 that are allowed
- Environment: the uv project analysis, which would be installed first
- Directory: /base/runs/RUN_ID/model-0/0
- Variables: TOKEN (values are not shown)

## Warnings

- Look here

## Options of sbatch

| name     | value                                            | from           |
|----------|--------------------------------------------------|----------------|
| --output | /home/me/dagster_runs/runs/RUN_ID/model-efe3239… | built-in       |
| --nodes  | 2                                                | asset metadata |

## Other settings

| name     | value        | from     |
|----------|--------------|----------|
| launcher | BashLauncher | built-in |

## Files

| what | files | size | to send | size of these |
|------|-------|------|---------|---------------|
"""
HERE = ComputeResource(mode="local")


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text("print(1)\n")
    return path


class TestReading:
    @pytest.mark.parametrize(
        "line",
        [
            "# Plan: train.py on me@login",
            "Nothing was uploaded, installed or submitted.",
            "- Start: 2026-11-22 10:00:00 UTC, by Slurm's estimate, if it were submitted now",
            "- Cost: at most 2.5 node-hours, of 8 that are allowed",
            "- Variables: TOKEN (values are not shown)",
            "- Look here",
            "| --comment | a\\|b  | call           |",
            "| --nodes   | 2     | asset metadata |",
            "| payload     | 1     | 2 KiB | 1       | 2 KiB         |",
            "| inputs      | 12    | 120 B | 6       | 60 B          |",
            "- 0.csv (10 B, is there)",
            "- 1.csv (10 B)",
            "- and 2 more",
            "- project (size not known, not looked for)",
            "inputs: a note",
        ],
    )
    def test_lines(self, line: str) -> None:
        assert line in str(PLAN).splitlines()

    def test_the_script_stands_between_fences_that_it_cannot_close(self) -> None:
        assert PLAN.text(script=True) == f"{PLAN}\n\n## Batch script\n\n~~~~~~sh\n{PLAN.script}~~~~~~"
        assert "#SBATCH" not in str(PLAN)

    def test_at_80_columns(self) -> None:
        log = "/home/me/dagster_runs/runs/RUN_ID/model-efe3239e1e03/0/log/slurm.log"
        plan = replace(
            PLAN,
            options=(PlannedSetting("--output", log, "built-in"), PlannedSetting("--nodes", "2", "asset metadata")),
            uploads=(),
            start=None,
            start_reason="Slurm names no time; nodes that the job needs may be away",
        )
        assert plan.text(width=80).splitlines() == AT_80.splitlines()

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({"start": None, "start_reason": "why"}, "- Start: not known: why"),
            ({"node_hours": None}, "- Cost: not known, since there is no walltime"),
            ({"max_node_hours": None}, "- Cost: at most 2.5 node-hours"),
            ({"tasks": 4}, "- Cost: at most 10 node-hours: tasks: 4, of 2.5 each, of 8 that are allowed"),
            ({"tasks": 4}, "- Runs as a Slurm job array (tasks: 4), by me@login"),
            ({"mode": "local"}, "- Runs on this machine, as a process"),
        ],
    )
    def test_what_is_not_known(self, changes: dict[str, object], line: str) -> None:
        assert line in str(JobPlan(**{**vars(PLAN), **changes})).splitlines()  # type: ignore[arg-type]

    def test_json(self) -> None:
        told = json.loads(json.dumps(PLAN.as_json()))
        assert told["start"] == "2026-11-22T10:00:00+00:00"
        assert [each["missing_bytes"] for each in told["uploads"]] == [2048, 60, 0]
        assert told["options"][1] == {"name": "--nodes", "value": "2", "source": "asset metadata"}


class TestSources:
    """Each setting, and who says so: the call, the launchpad, the asset, the resource, nobody."""

    def work(self, payload: Path, **arguments: object) -> WorkSpec:
        queue = SlurmQueueConfig(partition="compute", mem_per_cpu="1G", requeue=False)
        resource = ComputeResource(mode="slurm", slurm=SlurmResource(queue=queue), continue_exit_code=5)
        return work_of(resource, None, {"payload_path": payload, **arguments})

    def test_options(self, payload: Path) -> None:
        config = SlurmRunConfig(extra_slurm_opts={"nice": 5, "qos": "long"})
        work = self.work(payload, config=config, extra_slurm_opts={"qos": "short", "signal_before_timeout": 60})
        assert work.option_sources == {
            "cpus-per-task": "built-in",
            "gpus-per-node": "built-in",
            "mem-per-cpu": "resource",
            "nice": "launchpad",
            "no-requeue": "resource",
            "nodes": "built-in",
            "partition": "resource",
            "qos": "call",
            "signal": "call",
            "time": "built-in",
        }

    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            ({"outputs": ["a"], "config": SlurmRunConfig(outputs=["b"])}, Said(["a"], "call")),
            ({"config": SlurmRunConfig(outputs=["b"])}, Said(["b"], "launchpad")),
            ({}, Said(None, "built-in")),
        ],
    )
    def test_of_a_setting(self, payload: Path, said: dict[str, object], expected: Said) -> None:
        assert self.work(payload, **said).said["outputs"] == expected

    def test_of_the_resource(self, payload: Path) -> None:
        said = self.work(payload).said
        assert said["continue_exit_code"] == Said(5, "resource")
        assert said["environment"].source == "built-in"

    def test_of_the_asset(self, payload: Path) -> None:
        found = []

        @dg.asset(metadata={"slurm": {"cpus": 8}, "slurm_scratch": True, "slurm_pre_deployed_env_path": "/env"})
        def model(context: dg.AssetExecutionContext) -> None:
            resource = ComputeResource(mode="slurm", slurm=SlurmResource())
            work = work_of(resource, Step.of(context), {"payload_path": payload})
            found.append((work.option_sources["cpus-per-task"], work.said["scratch"].source))
            found.append((work.environment.title, work.said["environment"].source))

        with dg.DagsterInstance.ephemeral() as instance:
            dg.materialize([model], instance=instance)
        assert found == [("asset metadata", "asset metadata"), ("/env", "asset metadata")]


class TestHere:
    """Mode `local`: what would be run on this machine."""

    @pytest.mark.parametrize("context", [lambda: None, dg.build_asset_context, dg.build_op_context])
    def test_without_a_run(self, payload: Path, context: Callable[[], dg.AssetExecutionContext | None]) -> None:
        plan = HERE.plan(context(), payload, extra_env={"TOKEN": "s3cret"}, inputs={"data.txt": payload})
        assert (plan.mode, plan.start, plan.node_hours) == ("local", None, None)
        assert [(each.what, len(each.files)) for each in plan.uploads] == [("payload", 1), ("inputs", 1)]
        assert re.search(r"exec \S*python\S* train.py", plan.script)
        assert "TOKEN" in str(plan)
        assert "s3cret" not in f"{plan}{json.dumps(plan.as_json())}"

    def test_partitions(self, payload: Path) -> None:
        plan = HERE.plan(payload_path=payload, partitions=3)
        assert "on this machine, as a process, 3 times, one after the other" in str(plan)

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"payload_path": "nothing.py"}, PayloadNotFoundError),
            ({"extra_env": {"a b": "1"}}, InvalidRequestError),
            ({"inputs": ["nothing/*"]}, InvalidRequestError),
            ({"inputs": {"there": RemotePath("/nothing")}}, InvalidRequestError),
            ({"partitions": 0}, InvalidRequestError),
            ({"partitions": 2, "max_parallel": 0}, InvalidRequestError),
            ({"payload_path": None}, TypeError),
            ({"extra_envs": {}}, TypeError),
        ],
    )
    def test_refused(self, payload: Path, arguments: dict[str, object], error: type[Exception]) -> None:
        with pytest.raises(error):
            HERE.plan(**{"payload_path": payload, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"extra_slurm_opts": {"partitoin": "x"}}, "no option 'partitoin'"),
        ({"extra_slurm_opts": {"nodes": 9}}, "max_node_hours is 4"),
        ({"extra_slurm_opts": {"time_limit": None}}, "no walltime"),
        ({"partitions": 9}, r"4\.5 node-hours \(9 tasks of 1 node\), and max_node_hours is 4"),
    ],
)
def test_refused_before_the_cluster_is_asked(payload: Path, arguments: dict[str, object], said: str) -> None:
    compute = ComputeResource(mode="slurm", slurm=SlurmResource(), max_node_hours=4)
    with pytest.raises((UnknownOptionError, InvalidRequestError), match=said):
        compute.plan(payload_path=payload, **arguments)


class TestSlurmDoesNotSay:
    """A plan is made all the same, and says what is not known, and why."""

    FACTS = CompletedCommand(b"home /home/me\nuser me\nversion slurm 22.05.8\n", b"", 0)

    def plan(self, payload: Path, said: str) -> JobPlan:
        def answer(script: str, args: Sequence[str], stdin: bytes) -> CompletedCommand:
            if "sbatch" in args:
                return CompletedCommand(b"", said.encode(), 1)
            return self.FACTS if "nodes" not in script else CompletedCommand(b"n1\n", b"", 0)

        cluster = SlurmCluster(ScriptedTransport(answer), remote_base="/base")
        work = work_of(ComputeResource(mode="slurm", slurm=SlurmResource()), None, {"payload_path": payload})
        return job_plan(work, None, cluster)

    @pytest.mark.parametrize(
        ("said", "reason", "warning"),
        [
            (
                "allocation failure: AssocMaxSubmitJobLimit",
                "AssocMaxSubmitJobLimit",
                "It would be submitted when others of your jobs have ended",
            ),
            (
                "allocation failure: Unable to contact slurm controller (connect failure)",
                "Unable to contact slurm controller",
                "Slurm does not answer: whether it would take the job is not known",
            ),
            ("allocation failure: Requested nodes are busy", "nodes that the job needs may be away", None),
        ],
    )
    def test_when_it_starts(self, payload: Path, said: str, reason: str, warning: str | None) -> None:
        plan = self.plan(payload, said)
        assert plan.start is None
        assert reason in plan.start_reason
        assert plan.warnings == ((warning,) if warning else ())

    def test_a_refusal_is_one(self, payload: Path) -> None:
        with pytest.raises(SubmissionRejectedError):
            self.plan(payload, "allocation failure: Invalid qos specification")


class TestDryRun:
    def test_off(self) -> None:
        stop_in_dry_run(lambda: pytest.fail("it is off"))
        refuse_in_dry_run("something")

    def test_on(self) -> None:
        with dry_run(), pytest.raises(StepStopped) as stopped:
            stop_in_dry_run(lambda: PLAN)
        assert stopped.value.plan is PLAN
        with dry_run(), pytest.raises(PlanRefused, match=r"SlurmPipesClient\.run cannot be planned"):
            refuse_in_dry_run("SlurmPipesClient.run")
        self.test_off()

    def test_a_call_that_would_be_refused(self, payload: Path) -> None:
        with dry_run(), pytest.raises(PlanRefused) as refused:
            ComputeResource(mode="local").run(dg.build_asset_context(), payload, extra_env={"a b": ""})
        assert isinstance(refused.value.error, InvalidRequestError)

    def test_neither_the_asset_s_own_except_nor_a_retry_policy_goes_on(self, payload: Path) -> None:
        reached = []

        @dg.asset(retry_policy=dg.RetryPolicy(max_retries=3))
        def model(context: dg.AssetExecutionContext, compute: ComputeResource) -> None:
            reached.append("began")
            try:
                compute.run(context, payload)
            except Exception:  # noqa: BLE001 - as a user may write it
                reached.append("caught")

        with dry_run(), pytest.raises(StepStopped), dg.DagsterInstance.ephemeral() as instance:
            dg.materialize([model], resources={"compute": ComputeResource(mode="local")}, instance=instance)
        assert reached == ["began"]


def test_settings_are_shown_as_they_are_written(tmp_path: Path) -> None:
    payload = tmp_path / "job.py"
    payload.touch()
    given = {
        "payload_path": payload,
        "outputs": {"*.csv": Path("/x")},
        "launcher": BashLauncher(),
        "keep_on_cluster": ["a", "b"],
        "outputs_dir": None,
    }
    spec = WorkSpec.of(payload, said={name: Said(value, CALL) for name, value in given.items()})
    assert {each.name: each.value for each in facts_of(spec)["settings"]} == {
        "payload_path": str(payload),
        "launcher": "BashLauncher",
        "outputs": "{'*.csv': '/x'}",
        "keep_on_cluster": "['a', 'b']",
    }
