"""Real runs in a real DAGSTER_HOME, killed for real. No cluster: what counts here is what becomes of the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from tests.support import forked, graphql
from tests.support.instances import QUIET, lay_out_storage
from tests.support.waiting import eventually, written

PROJECT = """
import os
import pathlib
import time

import dagster as dg

from dagster_slurm import build_slurm_orphan_reconcile_sensor
from dagster_slurm.pipes.run_notes import take_lease

HERE = pathlib.Path(os.environ["WORLD"])


def mark(context, name):
    take_lease(context.instance, context.run)
    with (HERE / name).open("a") as marks:
        marks.write(f"{os.getpid()}\\n")


@dg.asset
def first(context: dg.AssetExecutionContext):
    mark(context, "first")


@dg.asset(deps=[first], partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def part(context: dg.AssetExecutionContext):
    mark(context, f"part-{context.partition_key}")
    while not (HERE / "go").exists():
        time.sleep(0.05)


class Settings(dg.Config):
    factor: int = 1


@dg.asset(deps=[first], pool="cluster")
def slow(context: dg.AssetExecutionContext, config: Settings):
    mark(context, "slow")
    while not (HERE / "go").exists():
        time.sleep(0.05)
    if (HERE / "fail").exists():
        raise RuntimeError("as was asked for")
    return dg.MaterializeResult(metadata={"factor": config.factor})


@dg.asset(deps=[slow])
def last(context: dg.AssetExecutionContext):
    mark(context, "last")
    while (HERE / "hold").exists():
        time.sleep(0.05)


@dg.success_hook
def after(context: dg.HookContext):
    (HERE / f"after-{context.op.name}").write_text("done\\n")
    while (HERE / f"hold-after-{context.op.name}").exists():
        time.sleep(0.05)


def job(name, executor):
    selection = dg.AssetSelection.assets(first, slow, last)
    return dg.define_asset_job(name, selection, executor_def=executor, tags={"of": "the job"}, hooks={after})


defs = dg.Definitions(
    assets=[first, part, slow, last],
    jobs=[job("in_process", dg.in_process_executor), job("multiprocess", dg.multiprocess_executor)],
    sensors=[build_slurm_orphan_reconcile_sensor(minimum_interval_seconds=1)],
)
"""

_LAUNCH = """mutation {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "project.py", repositoryName: "__repository__", jobName: "%s"},
    runConfigData: "{}", mode: "default"
  }) { __typename ... on PythonError { message } }
}"""


Started = subprocess.Popen[bytes] | forked.Process
forked_with_children = partial(forked.start, children=True)


@dataclass
class World:
    """A project, a DAGSTER_HOME, and the processes that were started for them."""

    directory: Path
    processes: list[Started] = field(default_factory=list)

    @property
    def project(self) -> Path:
        return self.directory / "project.py"

    @property
    def variables(self) -> dict[str, str]:
        home, binaries = str(self.directory / "home"), str(Path(sys.executable).parent)
        path = f"{binaries}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "WORLD": str(self.directory), "DAGSTER_HOME": home}

    def start(self, *argv: str) -> Started:
        """Start a command in a session of its own, in the project's directory."""
        output = (self.directory / f"output-{len(self.processes)}").open("wb")
        process = forked.start(
            argv,
            cwd=self.directory,
            env=self.variables,
            start_new_session=True,
            stdout=output,
            stderr=output,
            children=True,
        )
        self.processes.append(process)
        return process

    def execute(self, job: str, *options: str) -> Started:
        """Start a run."""
        return self.start("dagster", "job", "execute", "-f", str(self.project), "-j", job, *options)

    def reconcile(self, *options: str, home: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command, from another directory than that of the project."""
        elsewhere = self.directory / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        variables = {**self.variables, **({} if home is None else {"DAGSTER_HOME": home})}
        argv = ["dagster-slurm", "reconcile", *options]
        return forked.run(argv, cwd=elsewhere, env=variables, timeout=120, children=True)

    def develop(self) -> int:
        """Start `dagster dev`, and return the port of its web server."""
        port = graphql.free_port()
        self.start("dagster", "dev", "-f", str(self.project), "-h", "127.0.0.1", "-p", str(port))
        return port

    def launch(self, port: int, job: str) -> dg.DagsterRun:
        """Launch a run as the UI does, and wait until it is in the middle of `slow`."""
        answers: list[dict[str, Any]] = []

        def launched() -> bool:
            with suppress(OSError):
                answers.append(graphql.ask(port, _LAUNCH % job)["launchRun"])
            return bool(answers) and answers[-1]["__typename"] == "LaunchRunSuccess"

        eventually(launched, lambda: f"a run that is launched: {answers[-1:]} {self.said()}")
        self.wait_for("slow")
        return self.runs()[-1]

    def kill_everything(self) -> None:
        """`kill -9` of every process that has to do with this project."""
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if f"WORLD={self.directory}\0".encode() in environment.read_bytes():
                    os.kill(int(environment.parent.name), signal.SIGKILL)

    def kill(self, process: Started) -> None:
        """`kill -9` of a command and of all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # A step whose executor was killed before is nobody's child here, and takes a moment to end.
        eventually(lambda: not has_living(process.pid), f"process group {process.pid} has not ended")

    def wait_for(self, name: str, seconds: float = 60.0) -> None:
        """Wait until a step has made its mark."""
        mark = self.directory / name
        eventually(lambda: written(mark), lambda: f"{name} was not begun: {self.said()}", seconds=seconds)

    def said(self) -> str:
        """What the commands have printed."""
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.directory.glob("output-*")))

    def marks(self, name: str) -> int:
        """How often a step was executed."""
        path = self.directory / name
        return len(path.read_text().split()) if path.exists() else 0

    def touch(self, name: str) -> None:
        """Tell the steps something."""
        (self.directory / name).touch()

    def runs(self) -> Sequence[dg.DagsterRun]:
        """All runs, oldest first."""
        with dg.DagsterInstance.from_config(str(self.directory / "home")) as instance:
            return [record.dagster_run for record in instance.get_run_records(ascending=True)]

    def open(self) -> dg.DagsterInstance:
        """The instance."""
        return dg.DagsterInstance.from_config(str(self.directory / "home"))

    def killed_run(self, job: str = "in_process", *options: str) -> dg.DagsterRun:
        """A run all of whose processes were killed in the middle of `slow`."""
        process = self.execute(job, *options)
        self.wait_for("slow")
        self.kill(process)
        run = self.runs()[-1]
        assert run.status is dg.DagsterRunStatus.STARTED
        return run


def has_living(group: int) -> bool:
    """Whether a process of a group has not ended yet, whether or not somebody has waited for it (proc(5), stat)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state not in "ZX":
                return True
    return False


@pytest.fixture
def world(tmp_path: Path, storage: Mapping[str, object]) -> Iterator[World]:
    """A project and a DAGSTER_HOME; what was started ends with the test."""
    lay_out_storage(tmp_path / "home")
    (tmp_path / "home" / "dagster.yaml").write_text(yaml.safe_dump({**QUIET, **storage}))
    (tmp_path / "project.py").write_text(PROJECT)
    made = World(tmp_path)
    yield made
    made.kill_everything()
    for process in made.processes:
        process.wait()
