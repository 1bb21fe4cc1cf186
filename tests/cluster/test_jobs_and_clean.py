"""`dagster-slurm jobs` and `dagster-slurm clean`, with real runs whose processes were killed, failed or went well."""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from dagster_slurm.cli import jobs as jobs_command
from dagster_slurm.cli import main
from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.sandbox import Sandbox
from tests.support import forked
from tests.support.controller import controller_stopped
from tests.support.instances import lay_out_storage
from tests.support.terminals import assert_fits, lines_on_a_terminal
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster

# A run of the asset that the command line names; `debug_mode` stands for a process that was killed
# before the removal.
PROJECT = """
import os, sys

import dagster as dg
from dagster_slurm import ComputeResource, SlurmResource

FOLDER = os.environ["TRIAL_FOLDER"]
PAYLOADS = {
    "running": "while ! [ -e %s/go ]; do sleep 0.2; done; echo done >>%s/running" % (FOLDER, FOLDER),
    "pending": "echo done >>%s/pending" % FOLDER,
    "uncollected": "while ! [ -e %s/go-uncollected ]; do sleep 0.2; done" % FOLDER,
    "adopted": "while ! [ -e %s/go-adopted ]; do sleep 0.2; done" % FOLDER,
    "collected": "true",
    "failed": "exit 3",
}

def asset_of(name):
    partitions = dg.StaticPartitionsDefinition(["north", "south"]) if name == "collected" else None
    options = {"cpus": 1, "mem": "100M", "hold": name == "pending"}

    @dg.asset(name=name, metadata={"slurm": options}, partitions_def=partitions)
    def payload(context: dg.AssetExecutionContext, compute: ComputeResource):
        with open(f"{name}.sh", "w") as script:
            script.write(PAYLOADS[name])
        return compute.run(context, f"{name}.sh").get_materialize_result()

    return payload

def run(name, instance):
    compute = ComputeResource(
        mode="slurm", slurm=SlurmResource.from_env(), debug_mode=name != "failed", reattach="asset"
    )
    key = "north" if name == "collected" else None
    dg.materialize(
        [asset_of(name)],
        resources={"compute": compute},
        instance=instance,
        partition_key=key,
        raise_on_error=False,
        tags={"trial": name},
    )

with dg.DagsterInstance.get() as instance:
    run(sys.argv[1], instance)
"""


@dataclass
class Trial:
    """A DAGSTER_HOME, a `remote_base`, and the processes that were started for them."""

    sandbox: Sandbox
    directory: Path
    base: Path
    variables: dict[str, str]
    processes: list[forked.Process] = field(default_factory=list)

    def start(self, asset: str) -> forked.Process:
        output = (self.directory / f"output-{len(self.processes)}").open("wb")
        process = forked.start(
            [sys.executable, "project.py", asset],
            cwd=self.directory,
            env=self.variables,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        output.close()
        self.processes.append(process)
        return process

    def kill(self, process: forked.Process) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def call(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments], env=self.variables, catch_exceptions=False)

    def jobs(self, *options: str) -> dict[str, dict[str, Any]]:
        """The jobs of this trial by their asset; those of others in the same cluster are left out."""
        done = self.call("jobs", "--json", *options)
        assert done.exit_code == 0, done.output
        rows = json.loads(done.stdout)["jobs"]
        return {row["asset"]: row for row in rows if row["directory"].startswith(f"{self.base}/")}

    def states(self, *options: str) -> dict[str, str]:
        return {name: row["state"] for name, row in self.jobs(*options).items()}

    def clean(self, *options: str) -> dict[str, tuple[str, str]]:
        """What happens to each asset's directories, and why."""
        done = self.call("clean", "--json", *options)
        assert done.exit_code == 0, done.output
        rows = json.loads(done.stdout)["leftovers"]
        return {asset_of(path): (row["action"], row["reason"]) for row in rows for path in row["paths"][:1]}

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.base)) for path in self.base.rglob("*"))

    def launches(self) -> list[str]:
        return sorted(asset_of(str(path)) for path in self.base.glob("runs/*/*"))

    def runs(self, asset: str) -> list[dg.DagsterRun]:
        """The runs of an asset, the newest first."""
        with self.instance() as instance:
            return list(instance.get_runs(dg.RunsFilter(tags={"trial": asset})))

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.directory / "home"))

    def said(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.directory.glob("output-*")))


def asset_of(path: str) -> str:
    return Path(path).name.rpartition("-")[0]


@pytest.fixture
def trial(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Runs whose jobs are in every state: see `PROJECT`."""
    directory = tmp_path_factory.mktemp("trial")
    lay_out_storage(directory / "home")
    (directory / "home" / "dagster.yaml").touch()
    (directory / "project.py").write_text(PROJECT)
    base = sandbox.home / "test-runs" / f"jobs-{uuid.uuid4().hex[:8]}"
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "DAGSTER_"))},
        **sandbox.env(),
        "DAGSTER_HOME": str(directory / "home"),
        "SLURM_REMOTE_BASE": str(base),
        "TRIAL_FOLDER": str(base),
    }
    trial = Trial(sandbox, directory, base, variables)
    assert sandbox.run(["mkdir", "-p", str(base)]).returncode == 0
    try:
        set_the_stage(trial)
        yield trial
    finally:
        for process in trial.processes:
            if process.poll() is None:
                trial.kill(process)
        ids = [row["job_id"] for row in trial.jobs("--all").values()]
        sandbox.run(["scancel", *ids])
        sandbox.run(["rm", "-rf", str(base)])


def set_the_stage(trial: Trial) -> None:
    # Two processes that make its database at once get into each other's way.
    with trial.instance() as instance:
        instance.get_runs()
    killed = [trial.start(name) for name in ("running", "pending", "uncollected", "adopted")]
    ended = [trial.start(name) for name in ("collected", "failed")]
    expected = {"running": "RUNNING", "pending": "PENDING", "uncollected": "RUNNING", "adopted": "RUNNING"}
    eventually(lambda: expected.items() <= trial.states().items(), trial.said)
    for process in killed:
        trial.kill(process)
    assert [process.wait(90) for process in ended] == [0, 0], trial.said()
    with trial.instance() as instance:
        (run,) = trial.runs("adopted")
        instance.report_run_failed(run)
    adopting = trial.start("adopted")
    eventually(lambda: len(list(trial.base.glob("runs/*/adopted-*/0"))) == 2, trial.said)
    for name in ("go-adopted", "go-uncollected"):
        trial.sandbox.run(["touch", str(trial.base / name)])
    assert adopting.wait(90) == 0, trial.said()
    eventually(lambda: trial.states()["uncollected"] == "COMPLETED", trial.said)


def jobs_shows_them_all(trial: Trial) -> None:
    rows = trial.jobs()
    assert {name: (row["state"], row["run_status"]) for name, row in rows.items()} == {
        "running": ("RUNNING", "STARTED"),
        "pending": ("PENDING", "STARTED"),
        "uncollected": ("COMPLETED", "STARTED"),
        "adopted": ("COMPLETED", "SUCCESS"),
        "collected": ("COMPLETED", "SUCCESS"),
        "failed": ("FAILED", "FAILURE"),
    }
    assert rows["pending"]["reason"].startswith("JobHeld")
    assert rows["collected"]["partition_key"] == "north"
    assert {row["partition"] for row in rows.values()} == {"compute"}
    assert rows["running"]["nodes"].startswith("n")
    assert rows["running"]["elapsed_seconds"] > 0
    assert 0 < rows["running"]["left_seconds"] < rows["running"]["limit_seconds"] == 1800
    assert {(row["cpus"], row["memory"], row["node_count"]) for row in rows.values()} == {(1, "100M", 1)}
    assert rows["adopted"]["run_id"] == trial.runs("adopted")[0].run_id


def jobs_of_which_only_directories_and_sacct_know(trial: Trial) -> None:
    # Stands for the minutes (MinJobAge) after which the controller forgets a job.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlurmCluster, "queue_of_user", lambda self: [])
        assert trial.jobs() == {}
        expected = {"uncollected": "COMPLETED", "adopted": "COMPLETED", "collected": "COMPLETED", "failed": "FAILED"}
        # The accounting may be some seconds late.
        eventually(lambda: expected.items() <= trial.states("--all").items(), lambda: trial.jobs("--all"))
        assert trial.jobs("--all")["failed"]["nodes"].startswith("n")


def jobs_as_a_table(trial: Trial) -> None:
    heading, *lines = trial.call("jobs").stdout.splitlines()
    assert heading.split()[:7] == ["JOBID", "RUN", "RUN_STATUS", "ASSET", "KEY", "PARTITION", "ST"]
    job_id = trial.jobs()["running"]["job_id"]
    (line,) = [line for line in lines if line.split()[0] == job_id]
    (run,) = trial.runs("running")
    assert line.split()[1:7] == [run.run_id[:8], "STARTED", "running", "-", "compute", "R"]


def on_a_terminal_no_row_is_too_long(trial: Trial) -> None:
    code, lines = lines_on_a_terminal(["jobs"], trial.variables)
    assert code == 0
    assert_fits(lines)
    heading, *rows = lines
    # Which others have room depends on what else the user has in the queue.
    assert [word for word in heading.split() if word in {"JOBID", "ASSET", "ST"}] == ["JOBID", "ASSET", "ST"]
    assert {"R", "PD", "CD", "F"} <= {word for row in rows for word in row.split()}
    code, lines = lines_on_a_terminal(["clean"], trial.variables)
    assert code == 0
    assert_fits(lines)
    assert any("…/running-" in line for line in lines)
    assert "    its step has succeeded" in lines


def jobs_in_some_states(trial: Trial) -> None:
    assert set(trial.jobs("--state", "PD,r")) == {"pending", "running"}
    assert set(trial.jobs("--state", "FAILED")) == {"failed"}
    refused = trial.call("jobs", "--state", "WAITS")
    assert refused.exit_code == 2
    assert "unknown job state 'WAITS'" in refused.stderr


def a_job_whose_directory_is_gone_has_its_run(trial: Trial) -> None:
    (launch,) = trial.base.glob("runs/*/failed-*")
    aside = launch.rename(trial.base / "aside")
    done = trial.call("jobs", "--json")
    (row,) = [row for row in json.loads(done.stdout)["jobs"] if row["name"] == launch.name]
    aside.rename(launch)
    (run,) = trial.runs("failed")
    assert (row["directory"], row["run_id"], row["run_status"]) == ("", run.run_id, "FAILURE")
    assert (row["asset"], row["state"], row["cpus"], row["memory"]) == ("failed", "FAILED", 1, "100M")


def jobs_are_watched(trial: Trial) -> None:
    said: list[str] = []

    def sleep(seconds: float) -> None:
        said.append(f"{seconds:g}")
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        # Stands for the time between two looks, and for Ctrl-C.
        patch.setattr(jobs_command, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: 0.0))
        done = trial.call("jobs", "--watch", "7")
    assert (done.exit_code, said) == (0, ["7", "7"])
    assert done.stdout.count("JOBID") == 2


def jobs_without_dagster_home(trial: Trial) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(trial.variables, "DAGSTER_HOME", "")
        assert trial.jobs()["running"]["run_status"] == ""
        assert trial.clean("--older-than", "0s")["collected"] == (
            "keep",
            "its result was never collected; --all removes it",
        )


def clean_lists_and_changes_nothing(trial: Trial) -> None:
    before = trial.files()
    running, pending = trial.jobs()["running"]["job_id"], trial.jobs()["pending"]["job_id"]
    busy = f"run {trial.runs('uncollected')[0].run_id} is in progress; "
    found = trial.clean()
    assert found["running"] == ("keep", f"job {running} is RUNNING")
    assert found["pending"] == ("keep", f"job {pending} is PENDING")
    assert found["uncollected"][1].startswith(busy)
    assert found["adopted"] == found["collected"] == ("remove", "its step has succeeded")
    assert found["failed"][0] == "keep"
    assert found["failed"][1].endswith("its job ended without success; younger than 3 d (--older-than)")
    said = trial.call("clean").stdout.splitlines()[-1]
    assert said.startswith("2 to remove (")
    assert said.endswith("4 to keep. Nothing was removed; --yes does it.")
    assert trial.files() == before


def without_an_answer_of_slurm_nothing_is_removed(trial: Trial) -> None:
    before = trial.files()
    with controller_stopped(trial.sandbox):
        done = trial.call("clean", "--yes", "--all", "--older-than", "0s")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("dagster-slurm: squeue: ")
    assert trial.files() == before


def clean_removes_what_nobody_needs(trial: Trial) -> None:
    with trial.instance() as instance:
        (run,) = trial.runs("uncollected")
        instance.report_run_failed(run)
    found = trial.clean("--yes", "--older-than", "0s")
    assert {name: action for name, (action, _) in found.items()} == {
        "running": "keep",
        "pending": "keep",
        "uncollected": "keep",
        "adopted": "removed",
        "collected": "removed",
        "failed": "removed",
    }
    advice = f"its result was never collected; re-execute run {run.run_id} from failure, or --all"
    assert found["uncollected"][1] == advice
    assert trial.launches() == ["pending", "running", "uncollected"]
    assert len(list(trial.base.glob("assets/*"))) == 3


def clean_all_removes_a_result_that_nobody_collected(trial: Trial) -> None:
    found = trial.clean("--yes", "--all", "--older-than", "0s")
    assert found["uncollected"] == ("removed", "its result was never collected (--all)")
    assert trial.launches() == ["pending", "running"]


def the_jobs_that_were_live_end_well(trial: Trial) -> None:
    trial.sandbox.run(["touch", str(trial.base / "go")])
    pending = trial.jobs()["pending"]["job_id"]
    # A controller that has just been started may answer "Unexpected message received" (22.05.8).
    eventually(lambda: trial.sandbox.run(["scontrol", "release", pending]).returncode == 0)
    eventually(lambda: set(trial.states().values()) == {"COMPLETED"}, trial.said)
    assert [(trial.base / name).read_text() for name in ("running", "pending")] == ["done\n"] * 2


def test_what_is_shown_what_is_removed_and_that_live_jobs_end_well(trial: Trial) -> None:
    """One story, and not a test of each part: the order of tests is that of chance, and this has one."""
    jobs_shows_them_all(trial)
    jobs_of_which_only_directories_and_sacct_know(trial)
    jobs_as_a_table(trial)
    on_a_terminal_no_row_is_too_long(trial)
    jobs_in_some_states(trial)
    a_job_whose_directory_is_gone_has_its_run(trial)
    jobs_are_watched(trial)
    jobs_without_dagster_home(trial)
    clean_lists_and_changes_nothing(trial)
    without_an_answer_of_slurm_nothing_is_removed(trial)
    clean_removes_what_nobody_needs(trial)
    clean_all_removes_a_result_that_nobody_collected(trial)
    the_jobs_that_were_live_end_well(trial)
