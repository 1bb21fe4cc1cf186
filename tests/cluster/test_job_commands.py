"""`dagster-slurm logs`, `shell`, `cancel` and `report` on the jobs of two runs: of one job, and of an array."""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from dagster_slurm.cli import jobs as report_module
from dagster_slurm.cli import main
from dagster_slurm.housekeeping.usage import Usage
from dagster_slurm.sandbox import Sandbox
from tests.support import forked
from tests.support.instances import lay_out_storage
from tests.support.terminals import lines_on_a_terminal
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster

PROJECT = """
import os, sys

import dagster as dg
from dagster_slurm import ComputeResource, SlurmResource

FOLDER = os.environ["TRIAL_FOLDER"]
SCRIPT = '''
echo "out of $SLURM_JOB_ID"
echo "err of $SLURM_JOB_ID" >&2
while ! [ -e FOLDER/go ]; do sleep 0.2; done
echo "last of $SLURM_JOB_ID"
'''.replace("FOLDER", FOLDER)
OPTIONS = {"slurm": {"cpus": 1, "mem": "100M"}}
KEYS = dg.StaticPartitionsDefinition(["north", "south", "west"])

@dg.asset(key_prefix="a", metadata=OPTIONS)
def talks(context: dg.AssetExecutionContext, compute: ComputeResource):
    return compute.run(context, "talks.sh").get_materialize_result()

@dg.asset(metadata=OPTIONS, partitions_def=KEYS, backfill_policy=dg.BackfillPolicy.single_run())
def parts(context: dg.AssetExecutionContext, compute: ComputeResource):
    return compute.run_partitions(context, "talks.sh", max_parallel=2).get_materialize_result()

with open("talks.sh", "w") as script:
    script.write(SCRIPT)
tags = {"dagster/asset_partition_range_start": "north", "dagster/asset_partition_range_end": "west"}
with dg.DagsterInstance.get() as instance:
    dg.materialize(
        [{"talks": talks, "parts": parts}[sys.argv[1]]],
        resources={"compute": ComputeResource(mode="slurm", slurm=SlurmResource.from_env())},
        instance=instance,
        raise_on_error=False,
        tags=tags if sys.argv[1] == "parts" else {},
    )
"""


@dataclass
class Trial:
    """Two runs in processes of their own."""

    sandbox: Sandbox
    directory: Path
    base: Path
    variables: dict[str, str]
    processes: list[forked.Process] = field(default_factory=list)

    def start(self, asset: str) -> None:
        with (self.directory / f"output-{asset}").open("wb") as output:
            argv = [sys.executable, "project.py", asset]
            self.processes.append(
                forked.start(argv, cwd=self.directory, env=self.variables, stdout=output, stderr=output)
            )

    def call(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments], env=self.variables, catch_exceptions=False)

    def jobs(self) -> dict[str, dict[str, Any]]:
        rows = json.loads(self.call("jobs", "--json").stdout)["jobs"]
        return {row["asset"]: row for row in rows if row["directory"].startswith(f"{self.base}/")}

    def said(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.directory.glob("output-*")))


@pytest.fixture
def trial(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    directory = tmp_path_factory.mktemp("commands")
    lay_out_storage(directory / "home")
    (directory / "home" / "dagster.yaml").touch()
    (directory / "project.py").write_text(PROJECT)
    base = sandbox.home / "test-runs" / f"commands-{uuid.uuid4().hex[:8]}"
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "DAGSTER_"))},
        **sandbox.env(),
        "DAGSTER_HOME": str(directory / "home"),
        "SLURM_REMOTE_BASE": str(base),
        "TRIAL_FOLDER": str(base),
    }
    assert sandbox.run(["mkdir", "-p", str(base)]).returncode == 0
    trial = Trial(sandbox, directory, base, variables)
    with dg.DagsterInstance.from_config(str(directory / "home")) as instance:
        # Two processes that make its database at once get into each other's way.
        instance.get_runs()
    try:
        yield trial
    finally:
        sandbox.run(["touch", str(base / "go")])
        for process in trial.processes:
            if process.poll() is None:
                process.wait(120)
        sandbox.run(["rm", "-rf", str(base)])


def logs_have_what_was_said(trial: Trial, job_id: str, array: str, run_id: str) -> None:
    eventually(lambda: f"out of {job_id}\n" in trial.call("logs", job_id).stdout, trial.said)
    done = trial.call("logs", job_id)
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"out of {job_id}\n", f"err of {job_id}\n")
    assert trial.call("logs", run_id[:8]).stdout == done.stdout
    eventually(lambda: trial.call("logs", array).stdout.count("out of ") == 2, trial.said)
    lines = trial.call("logs", array).stdout.splitlines()
    assert [line for line in lines if line.startswith("==>")] == [
        f"==> {array}_0 north <==",
        f"==> {array}_1 south <==",
    ]
    assert re.fullmatch(r"out of \d+\n", trial.call("logs", f"{array}_1").stdout)
    # The third has not started.
    assert trial.call("logs", f"{array}_2").stdout == ""
    assert "it has 3 tasks, from 0 on" in trial.call("logs", f"{array}_3").stderr


def a_shell_is_beside_the_payload(trial: Trial, job_id: str, array: str) -> None:
    for named in (job_id, f"{array}_1"):
        typed = {"$ ": "echo it is job $SLURM_JOB_ID, $(ls | tr '\\n' ' '); exit 7"}
        code, lines = lines_on_a_terminal(["shell", named], trial.variables, typed=typed)
        assert code == 7, lines
        assert any(re.match(r"it is job \d+, .*talks\.sh", line) for line in lines), lines
    refused = trial.call("shell", array)
    assert (refused.exit_code, "name a task of it that runs" in refused.stderr) == (1, True)


def what_is_not_of_a_run_is_not_cancelled(trial: Trial) -> None:
    stranger = trial.sandbox.run(["sbatch", "--parsable", "--hold", "--mem=10M", "--wrap", "true"]).stdout.strip()
    refused = trial.call("cancel", stranger, "--yes")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"No job of a run is known as {stranger}" in refused.stderr
    assert trial.sandbox.run(["squeue", "-h", "-j", stranger]).stdout.strip()
    trial.sandbox.run(["scancel", stranger])


def one_task_is_cancelled(trial: Trial, array: str) -> None:
    refused = CliRunner().invoke(main, ["cancel", f"{array}_1"], env=trial.variables, input="n\n")
    assert refused.exit_code == 1
    assert trial.jobs()["parts"]["tasks"] == {"RUNNING": 2, "PENDING": 1}
    done = trial.call("cancel", f"{array}_1", "--yes")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, f"Slurm job {array}_1 is cancelled.")
    eventually(lambda: trial.jobs()["parts"]["tasks"] == {"RUNNING": 2, "CANCELLED": 1}, trial.said)


def logs_are_followed_to_the_end(trial: Trial, job_id: str) -> None:
    argv = [sys.executable, "-m", "dagster_slurm.cli", "logs", job_id, "--follow"]
    (output := trial.directory / "followed").touch()
    with output.open("wb") as file:
        following = forked.start(argv, env=trial.variables, stdout=file)
    eventually(lambda: "out of " in output.read_text(), trial.said)
    trial.sandbox.run(["touch", str(trial.base / "go")])
    assert following.wait(120) == 0
    assert output.read_text().splitlines()[0] == f"out of {job_id}"


def what_dagster_has_captured_stays(trial: Trial, run_id: str) -> None:
    eventually(lambda: not list(trial.base.glob("runs/*/a__talks-*")), trial.said)
    done = trial.call("logs", run_id)
    assert done.exit_code == 0
    assert "as Dagster has captured it <==" in done.stderr
    assert re.search(r"^out of \d+$", done.stdout, re.M)
    assert re.search(r"^last of \d+$", done.stdout, re.M)


def a_run_may_begin_with_digits(trial: Trial, run_id: str) -> None:
    """One of forty does."""

    def numbered(*arguments: Any) -> list[Usage]:
        return [replace(each, run_id=each.run_id.replace(run_id, "40404040")) for each in usages_of(*arguments)]

    usages_of = report_module._usages
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_module, "_usages", numbered)
        (row,) = json.loads(trial.call("report", "40404040", "--json").stdout)["rows"]
        missing = trial.call("report", "40404041")
    assert (row["asset"], row["run_id"]) == ("a/talks", "40404040")
    assert missing.exit_code == 1
    assert "Slurm's accounting has no job 40404041 of a run" in missing.stderr


def the_report_has_them_when_their_directories_are_gone(trial: Trial, job_id: str, array: str, run_id: str) -> None:
    eventually(lambda: "State: COMPLETED" in trial.call("report", job_id).stdout, trial.said)
    said = dict(line.split(": ", 1) for line in trial.call("report", job_id).stdout.splitlines())
    assert (said["Job ID"], said["Asset"], said["Run"]) == (job_id, "a/talks", run_id)
    assert (said["Nodes"], said["Cores"], said["Time limit"]) == ("1", "1", "00:30:00")
    assert re.fullmatch(r"[0-9.]+% of 00:0\d:\d\d core-walltime", said["CPU Efficiency"])
    eventually(lambda: trial.call("report", array).stdout.count("Job ID: ") == 3, trial.said)
    told = json.loads(trial.call("report", run_id[:8], "--since", "1d", "--json").stdout)
    (row,) = told["rows"]
    assert (row["asset"], row["run_id"], row["states"]) == ("a/talks", run_id, {"COMPLETED": 1})
    assert (row["asked_bytes"], row["limit_seconds"]) == (100 << 20, 1800.0)
    assert 0 < row["node_hours"] < 0.1
    a_run_may_begin_with_digits(trial, run_id)
    by_asset = trial.call("report", "--by", "asset").stdout.splitlines()
    assert by_asset[0].split()[:4] == ["ASSET", "RUN", "JOBS", "ST"]
    assert "node-hours, since " in by_asset[-1]


def test_the_life_of_two_runs(trial: Trial) -> None:
    """One story: the order of tests is that of chance, and this has one."""
    for asset in ("talks", "parts"):
        trial.start(asset)
    expected = {"a/talks": {}, "parts": {"RUNNING": 2, "PENDING": 1}}
    eventually(lambda: {name: row["tasks"] for name, row in trial.jobs().items()} == expected, trial.said)
    eventually(lambda: trial.jobs()["a/talks"]["state"] == "RUNNING", trial.said)
    rows = trial.jobs()
    job_id, run_id, array = rows["a/talks"]["job_id"], rows["a/talks"]["run_id"], rows["parts"]["job_id"]
    logs_have_what_was_said(trial, job_id, array, run_id)
    a_shell_is_beside_the_payload(trial, job_id, array)
    what_is_not_of_a_run_is_not_cancelled(trial)
    one_task_is_cancelled(trial, array)
    logs_are_followed_to_the_end(trial, job_id)
    what_dagster_has_captured_stays(trial, run_id)
    the_report_has_them_when_their_directories_are_gone(trial, job_id, array, run_id)
    ended = trial.call("cancel", job_id, "--yes")
    assert (ended.exit_code, "has ended." in ended.stdout) == (0, True)
