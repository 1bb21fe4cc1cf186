"""A DAGSTER_HOME with the processes that work on it, and what became of the trials in it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster import DagsterEventType, DagsterRun, DagsterRunStatus, EventLogEntry, RunsFilter

from dagster_slurm.sandbox import Sandbox
from dagster_slurm_sandbox import processes as process_table
from dagster_slurm_sandbox.processes import Process
from tests.support.environments import copied_environment
from tests.support.instances import lay_out_storage

from ..support import forked
from ..support.waiting import eventually
from .figures import NOTHING_LEFT, Figures, lines_off
from .project.plan import NAME_TAG, Plan

ALL = os.environ.get("FAULTS") == "all"
Started = subprocess.Popen[bytes] | forked.Process
ROOT = Path(__file__).parents[2]
MODULE = "tests.faults.project.definitions"
MARKER = "FAULTS_WORLD"
# The seed's block; without `enabled` Dagster 1.13 retries nothing.
DAGSTER_YAML = """
run_retries:
  enabled: true
  max_retries: 3
  retry_on_asset_or_op_failure: false # only retry on crashes/interrupts
run_queue:
  max_concurrent_runs: 40
  dequeue_interval_seconds: 1
telemetry:
  enabled: false
"""
_MONITORING = """
run_monitoring:
  enabled: true
  poll_interval_seconds: 1
"""


class World:
    """A DAGSTER_HOME of its own.

    Args:
        sandbox: The cluster.
        directory: Where its files lie on this machine.
        variables: The way to the login node, if not the sandbox's usual one, and other variables.
        remote_base: Where the runs lie on the cluster.
        monitored: Whether Dagster's run monitoring is on, as `dagster/max_runtime` needs it.
        storage: What `dagster.yaml` says of where the records are, if it is not SQLite.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        directory: Path,
        *,
        variables: Mapping[str, str] | None = None,
        remote_base: str = "~/faults/runs",
        monitored: bool = False,
        storage: Mapping[str, object] | None = None,
    ) -> None:
        self.sandbox = sandbox
        self.directory = directory
        self.home, self.notes = directory / "dagster", directory / "notes"
        self.notes.mkdir(parents=True)
        # Two processes that find no storage would both make it, and one of them would fail.
        lay_out_storage(self.home, storage)
        kept = yaml.safe_dump(dict(storage)) if storage else ""
        (self.home / "dagster.yaml").write_text(DAGSTER_YAML + (_MONITORING if monitored else "") + kept)
        self.control_dir = tempfile.mkdtemp(prefix="ssh-", dir="/tmp")
        self.marker = str(directory)
        # Marks and jobs of other worlds, and of earlier sessions, have other names.
        self.id = secrets.token_hex(4)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            **sandbox.env(),
            **(variables or {}),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1",
            "DAGSTER_SLURM_SSH_CONTROL_DIR": self.control_dir,
            "FAULTS_WORLD_ID": self.id,
            "FAULTS_NOTES": str(self.notes),
            "FAULTS_MARKS_DIR": str(self.marks_dir),
            "FAULTS_REMOTE_BASE": remote_base,
            "FAULTS_ENVIRONMENT": copied_environment(sandbox, "tests", ["dagster-pipes"]),
            MARKER: self.marker,
        }

    @property
    def marks_dir(self) -> Path:
        """Where payloads leave their marks, on the cluster."""
        return self.sandbox.home / "faults" / "marks" / self.id

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        """Dagster's storage, to look into."""
        return dg.DagsterInstance.from_config(str(self.home))

    # -- processes

    def start(self, argv: Sequence[str], *, prefix: Sequence[str] = ()) -> Started:
        """Start one of Python's modules in a session of its own; its output goes to a file."""
        log = (self.directory / f"{argv[0]}.{time.monotonic_ns()}.log").open("wb")
        command = [*prefix, sys.executable, "-m", *argv]
        how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        # With all trials, what it starts is started as users start it.
        begin = subprocess.Popen if prefix else partial(forked.start, children=not ALL)
        return begin(command, cwd=ROOT, env=self.environment, start_new_session=True, **how)

    def execute(self, job: str, plan: Plan, *, prefix: Sequence[str] = ()) -> Started:
        """`dagster job execute`: a run without daemon, webserver and code server."""
        tags = json.dumps(plan.tags())
        return self.start(["dagster", "job", "execute", "-m", MODULE, "-j", job, "--tags", tags], prefix=prefix)

    def processes(self) -> list[Process]:
        """All processes of this world, those that daemonised included."""
        return process_table.matching(lambda path: process_table.has_variable(path, MARKER, self.marker))

    def kill_everything(self) -> None:
        """As a loss of power does it."""
        while left := self.processes():
            for process in left:
                process_table.send(process, signal.SIGKILL)
            time.sleep(0.02)

    def close(self) -> None:
        """End every process; files stay, for those who look why something failed."""
        self.kill_everything()
        shutil.rmtree(self.control_dir, ignore_errors=True)

    # -- runs

    def runs_of(self, plan: Plan, partition: str | None = None) -> list[DagsterRun]:
        """The runs of a trial, the oldest first."""
        tags = {NAME_TAG: plan.name, **({"dagster/partition": partition} if partition else {})}
        records = self.instance.get_run_records(RunsFilter(tags=tags))
        return [record.dagster_run for record in sorted(records, key=lambda record: record.storage_id)]

    def run_of(self, plan: Plan, partition: str | None = None) -> DagsterRun:
        """The newest run of a trial, as soon as there is one."""
        return eventually(lambda: self.runs_of(plan, partition), f"a run of {plan.name}")[-1]

    def events(self, run: DagsterRun, kind: DagsterEventType) -> list[EventLogEntry]:
        """Events of one kind."""
        records = self.instance.get_records_for_run(run.run_id, of_type=kind).records
        return [record.event_log_entry for record in records]

    def event(self, run: DagsterRun, kind: DagsterEventType, *, text: str = "", seconds: float = 90.0) -> EventLogEntry:
        """The first event of a kind whose message holds a text, as soon as there is one."""

        def look() -> EventLogEntry | None:
            return next(
                (each for each in self.events(run, kind) if text in (each.get_dagster_event().message or "")), None
            )

        return eventually(look, f"{kind.value} {text} of run {run.run_id}", seconds=seconds, pause_seconds=0.05)

    def messages(self, run: DagsterRun) -> list[str]:
        """Every message of a run's event log."""
        entries = self.instance.all_logs(run.run_id)
        return [entry.dagster_event.message or "" if entry.dagster_event else entry.user_message for entry in entries]

    def failure(self, run: DagsterRun) -> str:
        """Why a run's step failed, with every cause."""
        (entry,) = self.events(run, DagsterEventType.STEP_FAILURE)
        error = entry.get_dagster_event().step_failure_data.error
        return error.to_string() if error else ""

    def is_over(self, plan: Plan, partition: str | None = None) -> bool:
        """Whether the newest run of a trial has ended, and nothing retries it."""
        runs = self.runs_of(plan, partition)
        return bool(runs) and runs[-1].is_finished and not self._is_to_be_retried(runs[-1])

    def _is_to_be_retried(self, run: DagsterRun) -> bool:
        # Dagster decides in the moments after the failure; the daemon takes it back where nothing is left to retry.
        return run.status == DagsterRunStatus.FAILURE and run.tags.get("dagster/will_retry") != "false"

    def wait_for_the_end(self, plan: Plan, partition: str | None = None, *, seconds: float = 180.0) -> None:
        """Wait until a trial is over."""
        eventually(lambda: self.is_over(plan, partition), f"the end of {plan.name}", seconds=seconds, pause_seconds=0.3)

    # -- what came of it

    def marks(self, plan: Plan, partition: str | None = None) -> list[list[str]]:
        """What the payload left: `start` or `end`, and its job's id."""
        path = self.marks_dir / f"{plan.name}{f'.{partition}' if partition else ''}"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def started(self, plan: Plan, partition: str | None = None) -> str:
        """The id of the job that runs the payload, as soon as it does."""
        return eventually(lambda: self.marks(plan, partition), f"a start of {plan.name}")[0][1]

    def let_go(self, plan: Plan) -> None:
        """Let the payloads of a trial go on that were told to wait."""
        eventually(self.marks_dir.exists, f"the payload of {plan.name}")
        (self.marks_dir / f"{plan.name}.go").touch()

    def bodies(self, plan: Plan) -> int:
        """How often the body of the asset was executed."""
        path = self.notes / f"{plan.name}.bodies"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def died(self, plan: Plan) -> bool:
        """Whether a process has killed itself as the plan says."""
        return (self.notes / f"{plan.name}.died").exists()

    def jobs_of(self, plan: Plan, partition: str | None = None) -> dict[str, str]:
        """All jobs of a trial that Slurm remembers (it does for some minutes), and their states."""
        comment = f"{self.id}.{plan.name}{f'.{partition}' if partition else ''}"
        shown = self.sandbox.run(["squeue", "--me", "--noheader", "--states=all", "--format=%A|%T|%k"]).stdout
        found = [line.split("|") for line in shown.splitlines()]
        return {job: state for job, state, said in found if said == comment}

    def step_log(self, run: DagsterRun) -> str | None:
        """The compute log of the step of the run, as it was captured last."""
        captured = self.events(run, DagsterEventType.LOGS_CAPTURED)
        if not captured:
            return None
        key = captured[-1].get_dagster_event().logs_captured_data.file_key
        data = self.instance.compute_log_manager.get_log_data([run.run_id, "compute_logs", key])
        return (data.stdout or b"").decode()

    def ending_run(self, plan: Plan, partition: str | None = None) -> DagsterRun:
        """The run in which the step succeeded; without one, the last."""
        runs = self.runs_of(plan, partition)
        ended = [run for run in runs if self.events(run, DagsterEventType.STEP_SUCCESS)]
        return ended[-1] if ended else runs[-1]

    def figures(self, plan: Plan, partition: str | None = None, *, ending: DagsterRun | None = None) -> Figures:
        """What the trial came to.

        Args:
            plan: The trial.
            partition: Its partition, if it is of many.
            ending: The run that ended it, where several did; by default the one in which the step succeeded.
        """
        runs = self.runs_of(plan, partition)
        starts = [job for what, job in self.marks(plan, partition) if what == "start"]
        ended = ending or self.ending_run(plan, partition)
        succeeded = bool(self.events(ended, DagsterEventType.STEP_SUCCESS))
        # What a canceled run has shown is no matter.
        missing, doubled = lines_off(self.step_log(ended) or "", plan.expected_lines()) if succeeded else (0, 0)
        end = (ending or runs[-1]).status.value
        collecting = [ending] if ending else runs
        return Figures(
            executed=len(starts),
            jobs=len(set(starts)),
            end=NOTHING_LEFT if end in ("FAILURE", "CANCELED") and succeeded else end,
            missing=missing,
            doubled=doubled,
            submitted=len(self.jobs_of(plan, partition)),
            runs=len(runs),
            collected=sum(len(self.events(run, DagsterEventType.STEP_SUCCESS)) for run in collecting),
            trial=plan.name,
        )
