"""Finishes a run that was marked failed: by Dagster's daemon, or by a retry in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from dagster_slurm.pipes.dagster_runs import PARENT_RUN_ID_TAG, WILL_RETRY_TAG, code_origin, written_instance
from dagster_slurm.reconcile.decision import ReconciledRun, Verdict, judged, note_retry_made

_RETRIES = uuid.UUID("6f0c3b52-4a0e-4d0b-9f0a-5a1f5f2d3c71")
_DAEMON = "EVENT_LOG_CONSUMER"
# A daemon notes every 30 s that it lives (dagster 1.13, `_daemon/controller.py`).
_DAEMON_SIGN_SECONDS = 75.0
_STDERR_TAIL_BYTES = 4000


@dataclass(frozen=True)
class Code:
    """Where the code is, if not where the run says: as `dagster job execute` takes it.

    Args:
        python_file: A file, or else
        module_name: a module.
        attribute: The name of the definitions in it, if there are several.
        working_directory: Where modules are looked for; by default the current one.
    """

    python_file: str | None = None
    module_name: str | None = None
    attribute: str | None = None
    working_directory: str | None = None


def retry_run_id(parent_run_id: str) -> str:
    """The id of the retry of a run.

    It follows from the run's own. Run ids are unique in Dagster's storage, whichever that is: of any number of
    processes, on any machines, exactly one records the retry. No lock file is needed, and none is left behind.
    """
    return str(uuid.uuid5(_RETRIES, parent_run_id))


def finish(
    instance: DagsterInstance, run: DagsterRun, *, code: Code | None, notice: Callable[[str], None]
) -> ReconciledRun:
    """Have a failed run retried from the point of failure, and wait for the end of the retry if it happens here."""
    if other := retry_of(instance, run):
        note_retry_made(instance, run)
        return _told(run, f"marked failed; run {other.run_id} continues it", retry=other)
    if _daemon_retries(instance, run):
        return _told(run, "marked failed; Dagster's daemon retries it (run_retries)")
    if code is None and code_origin(run) is None:
        return _told(run, _NO_CODE, settled=False)
    if run.tags.get(WILL_RETRY_TAG) == "true":
        # A daemon that is started later would retry it once more.
        instance.add_run_tags(run.run_id, {WILL_RETRY_TAG: "false"})
    notice(f"{run.run_id} {run.job_name}: marked failed; is retried as run {retry_run_id(run.run_id)}")
    said = _execute(instance, run, code)
    return _outcome(instance, run, said)


def retry_of(instance: DagsterInstance, run: DagsterRun) -> DagsterRun | None:
    """A run that continues this one, whoever made it."""
    return next(iter(instance.get_runs(RunsFilter(tags={PARENT_RUN_ID_TAG: run.run_id}), limit=1)), None)


def _daemon_retries(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether a daemon is there that will: with the failure Dagster notes that run_retries apply to the run."""
    sign = instance.get_daemon_heartbeats().get(_DAEMON)
    alive = sign is not None and time.time() - sign.timestamp < _DAEMON_SIGN_SECONDS
    # Without the second the daemon gives up: "Run does not have an external job origin".
    return alive and run.remote_job_origin is not None and run.tags.get(WILL_RETRY_TAG) == "true"


def _execute(instance: DagsterInstance, run: DagsterRun, code: Code | None) -> str:
    """Execute the retry in a process of its own, and return the end of what that said on stderr.

    Of its own, as Dagster's run workers are: with the run's Python, directory and imports, killed by itself.
    """
    origin = code_origin(run) if code is None else None
    python = origin.executable if origin and Path(origin.executable).exists() else sys.executable
    directory = origin.working_directory if origin else None
    asked = {
        "instance": written_instance(instance),
        "parent_run_id": run.run_id,
        "run_id": retry_run_id(run.run_id),
        "code": asdict(code) if code else None,
    }
    with tempfile.TemporaryFile() as output:
        # On stdin, since the instance's settings may hold a password.
        subprocess.run(
            [python, "-m", "dagster_slurm.reconcile.runs"],
            input=json.dumps(asked).encode(),
            stdout=output,
            stderr=output,
            cwd=directory if directory and Path(directory).is_dir() else None,
            check=False,
        )
        output.seek(max(0, os.fstat(output.fileno()).st_size - _STDERR_TAIL_BYTES))
        return output.read().decode("utf-8", "replace")


def _outcome(instance: DagsterInstance, run: DagsterRun, said: str) -> ReconciledRun:
    retry = instance.get_run_by_id(retry_run_id(run.run_id))
    if retry is None:
        last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
        return _told(run, f"marked failed; its retry could not be started: {last}", settled=False)
    return _told(run, *_words_of(instance, retry), retry=retry)


def _words_of(instance: DagsterInstance, retry: DagsterRun) -> tuple[str, bool]:
    """How the retry stands, and whether that settles the matter. It may be another process that executes it."""
    ends = {
        DagsterRunStatus.SUCCESS: ("succeeded", True),
        DagsterRunStatus.CANCELED: ("was canceled", True),
        DagsterRunStatus.FAILURE: ("failed", False),
    }
    if retry.status in ends:
        words, settled = ends[retry.status]
        return f"marked failed; its retry, run {retry.run_id}, {words}", settled
    if judged(instance, retry, gone_hosts=(), named=False).verdict is Verdict.ORPHANED:
        return f"marked failed; its retry, run {retry.run_id}, died as well: reconcile once more", False
    return f"marked failed; run {retry.run_id} continues it", True


def _told(run: DagsterRun, done: str, settled: bool = True, *, retry: DagsterRun | None = None) -> ReconciledRun:
    retry_id = retry.run_id if retry else None
    return ReconciledRun(run.run_id, run.job_name, Verdict.ORPHANED, done, settled=settled, retry_run_id=retry_id)


_NO_CODE = (
    "marked failed; it is not recorded where its code is: name it with -f FILE or -m MODULE, "
    "or re-execute the run from failure in the UI"
)
