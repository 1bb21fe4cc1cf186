"""A real `dagster dev`: webserver, daemon and code server; and what a person does in its UI, as GraphQL."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from dagster import DagsterEventType, DagsterRun, DagsterRunStatus

from dagster_slurm.sandbox import Sandbox

from ..support import forked, graphql
from ..support.waiting import eventually
from .project.plan import Plan
from .world import ALL, MODULE, ROOT, World

# The daemon looks every second here.
OVERLOOKED_SECONDS = 15.0
_FORKING = threading.Lock()
_LOCATIONS = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
_LAUNCH = """
mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } }
  ... on PythonError { message } ... on UnauthorizedError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
_REEXECUTE = """
mutation($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_BACKFILL = """
mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_TERMINATE = """
mutation($run: String!, $policy: TerminateRunPolicy) { terminateRun(runId: $run, terminatePolicy: $policy) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }"""


class Deployment(World):
    """A world with a `dagster dev` that can be ended and started again."""

    def __init__(self, sandbox: Sandbox, directory: Path, **options: Any) -> None:
        super().__init__(sandbox, directory, **options)
        self.port = graphql.free_port()
        self.terminal: int | None = None
        self._terminal_closes = threading.Event()
        self._drain: threading.Thread | None = None
        self._location: dict[str, str] = {}

    # -- its life

    def up(self, *, on_terminal: bool = False) -> None:
        """Start it, if wanted on a terminal of its own, and return when it serves."""
        argv = [sys.executable, "-m", "dagster", "dev", "-m", MODULE, "-d", str(ROOT)]
        argv += ["-h", "127.0.0.1", "-p", str(self.port)]
        log = self.directory / "dev.log"
        if on_terminal:
            self._start_on_terminal(argv, log)
        else:
            begin = subprocess.Popen if ALL else partial(forked.start, children=True)
            with log.open("ab") as output:
                begin(
                    argv,
                    cwd=self.directory,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        self._location = eventually(self._find_location, f"`dagster dev` of {self.directory}", pause_seconds=0.3)

    def _start_on_terminal(self, argv: Sequence[str], log: Path) -> None:
        # Another child that held this one's terminal would keep it open.
        with _FORKING:
            pid, self.terminal = pty.fork()
            if pid == 0:
                os.chdir(self.directory)
                os.execvpe(argv[0], list(argv), self.environment)
            os.set_inheritable(self.terminal, False)
        self._terminal_closes.clear()
        arguments = (self.terminal, log, self._terminal_closes)
        self._drain = threading.Thread(target=_drain, args=arguments, daemon=True)
        self._drain.start()

    def type(self, keys: bytes) -> None:
        """Type on its terminal."""
        assert self.terminal is not None
        os.write(self.terminal, keys)

    def close_terminal(self) -> None:
        """As closing the window does."""
        assert self._drain is not None
        self._terminal_closes.set()
        self._drain.join()
        self.terminal = None

    def serves(self) -> bool:
        """Whether something listens on its port."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
            return True
        return False

    # -- what a person does in the UI

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """One GraphQL request."""
        (result,) = graphql.ask(self.port, query, **variables).values()
        return dict(result)

    def launch(self, job: str, plan: Plan, *, tags: Mapping[str, str] | None = None) -> DagsterRun:
        """Launch a run from the launchpad."""
        params = {
            "selector": {
                "repositoryLocationName": self._location["repositoryLocationName"],
                "repositoryName": self._location["repositoryName"],
                "jobName": job,
            },
            "executionMetadata": {"tags": _tags({**plan.tags(), **(tags or {})})},
        }
        return self._launched(self.ask(_LAUNCH, params=params))

    def reexecute_from_failure(self, run: DagsterRun) -> DagsterRun:
        """Re-execute a run from its failure."""
        return self._launched(self.ask(_REEXECUTE, params={"parentRunId": run.run_id, "strategy": "FROM_FAILURE"}))

    def backfill(self, job: str, partitions: Sequence[str], plan: Plan) -> None:
        """Launch a backfill, one run for each partition."""
        selector = {"partitionSetName": f"{job}_partition_set", "repositorySelector": self._location}
        params = {"selector": selector, "partitionNames": list(partitions), "tags": _tags(plan.tags())}
        said = self.ask(_BACKFILL, params=params)
        assert said["__typename"] == "LaunchBackfillSuccess", said

    def terminate(self, run: DagsterRun) -> None:
        """Terminate a run."""
        said = self.ask(_TERMINATE, run=run.run_id, policy="SAFE_TERMINATE")
        assert said["__typename"] == "TerminateRunSuccess", said

    def wait_for_the_end(self, plan: Plan, partition: str | None = None, *, seconds: float = 180.0) -> None:
        """Wait until a trial is over, and re-execute by hand a run that the daemon has overlooked.

        Dagster 1.13 sets the status of a failed run after it stored the event. A daemon that reads the event in between
        takes the run for one that did not fail, and never looks at it again (seen in 2 of 100 trials).
        """
        deadline = time.monotonic() + seconds
        while not self.is_over(plan, partition):
            assert time.monotonic() < deadline, f"the end of {plan.name}: not after {seconds:.0f} s"
            overlooked = self.overlooked(plan, partition)
            if overlooked is not None:
                self.reexecute_from_failure(overlooked)
            time.sleep(0.3)

    def overlooked(self, plan: Plan, partition: str | None) -> DagsterRun | None:
        """The newest run, if it is to be retried and was not for a long time."""
        runs = self.runs_of(plan, partition)
        if not runs or runs[-1].status != DagsterRunStatus.FAILURE:
            return None
        record = self.instance.get_run_record_by_id(runs[-1].run_id)
        ended = record.end_time if record is not None else None
        waited = ended is not None and time.time() - ended > OVERLOOKED_SECONDS
        return runs[-1] if waited and self._is_to_be_retried(runs[-1]) else None

    def mark_as_canceled(self, run: DagsterRun) -> None:
        """What the UI offers where a run's process does not answer: nothing but the mark is made."""
        said = self.ask(_TERMINATE, run=run.run_id, policy="MARK_AS_CANCELED_IMMEDIATELY")
        assert said["__typename"] == "TerminateRunSuccess", said

    # -- processes of a run

    def worker(self, run: DagsterRun) -> int:
        """The id of the process that executes a run."""
        entry = self.event(run, DagsterEventType.ENGINE_EVENT, text="Started process for run (pid:")
        return int(str(entry.get_dagster_event().message).rpartition("pid: ")[2].split(")")[0])

    def child(self, run: DagsterRun) -> int:
        """The id of the multiprocess executor's child that executes the step."""
        entry = self.event(run, DagsterEventType.STEP_WORKER_STARTED)
        return int(str(entry.get_dagster_event().engine_event_data.metadata["pid"].value))

    def _launched(self, said: Mapping[str, Any]) -> DagsterRun:
        assert said["__typename"] == "LaunchRunSuccess", said
        run = self.instance.get_run_by_id(said["run"]["runId"])
        assert run is not None
        return run

    def _find_location(self) -> dict[str, str] | None:
        with suppress(OSError):
            nodes = self.ask(_LOCATIONS).get("nodes")
            if nodes:
                return {"repositoryName": nodes[0]["name"], "repositoryLocationName": nodes[0]["location"]["name"]}
        return None


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _drain(terminal: int, log: Path, closes: threading.Event) -> None:
    """Read what is shown on a terminal: a process that writes to a full one would wait.

    It is closed here: as long as somebody waits in a read of it, it stays open, whoever closes it.
    """
    with log.open("ab") as output, suppress(OSError):
        while not closes.is_set():
            if select.select([terminal], [], [], 0.2)[0] and (block := os.read(terminal, 65536)):
                output.write(block)
                output.flush()
    os.close(terminal)
