"""What processes note with their run: its jobs and its run directory, and which of them work on it.

Job ids and run directory in the run's tags are for people, and nothing relies on them. Tags are written without a lock,
so that one of two processes' may be lost, and Dagster's daemon copies them to retries. That a process works on the run
is said in the run's event log, and read by whoever has to judge the run.
"""

from __future__ import annotations

import multiprocessing
import os
import posixpath
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict

from dagster import DagsterEventType, DagsterInstance, DagsterRun, MetadataValue

from dagster_slurm.pipes.dagster_private import (
    EngineEvent,
    engine_events,
    is_canceling_after,
    report_engine_event,
    steps_to_come,
)
from dagster_slurm.pipes.step import Step
from dagster_slurm.process_identity import ProcessIdentity
from dagster_slurm.run_directory import JobHandle
from dagster_slurm.text import error_words

JOB_TAG = "slurm/job/"
"""Begins a tag for each job, with its id behind it; the value is the directory of its launch, without its path."""
RUN_DIRECTORY_TAG = "slurm/run_directory"
# More are in no tag, but in the listing: the web server shows all tags of a run in one line.
_MOST_JOBS = 20
_PAUSE_SECONDS = 1.0


class _Tags:
    """Writes the tags of this process's runs: soon after the first submission, and at the end.

    A write has Dagster store the whole run anew, and hundreds of jobs may be submitted in a second.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Dagster reads a run's tags and writes all of them: of two writes at once, one would be lost.
        self._writing = threading.Lock()
        self._waiting: dict[str, list[JobHandle]] = defaultdict(list)
        self._begun: set[str] = set()
        self._held: set[str] = set()

    def add(self, instance: DagsterInstance, run_id: str, handle: JobHandle) -> None:
        with self._lock:
            self._waiting[run_id].append(handle)
            is_first = run_id not in self._begun
            self._begun.add(run_id)
        if is_first:
            timer = threading.Timer(_PAUSE_SECONDS, self._write_quietly, (instance, run_id))
            timer.daemon = True
            timer.start()

    @contextmanager
    def held(self, run_id: str) -> Iterator[None]:
        """No end of a step is the end of the run."""
        with self._lock:
            self._held.add(run_id)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(run_id)

    def finish(self, instance: DagsterInstance, run_id: str) -> None:
        """Write what was not written yet, if the run may end now."""
        with self._lock:
            if run_id in self._held:
                return
        self._write(instance, run_id)

    def _write(self, instance: DagsterInstance, run_id: str) -> None:
        with self._writing:
            with self._lock:
                handles = self._waiting.pop(run_id, [])
            if handles:
                _write(instance, run_id, handles)

    def _write_quietly(self, instance: DagsterInstance, run_id: str) -> None:
        with suppress(Exception):
            # A tag for people is not worth a job, and the instance may be closed by now.
            self._write(instance, run_id)


_TAGS = _Tags()


def tell_in_tags(step: Step, handle: JobHandle) -> None:
    """Add a job to the tags of the step's run, soon."""
    run = step.run
    if run is not None:
        _quietly(step, lambda: _TAGS.add(step.instance, run.run_id, handle))


def finish_tags(step: Step) -> None:
    """Write what `tell_in_tags` has not written yet, unless other steps of the run may follow in this process."""
    run = step.run
    if run is not None:
        _quietly(step, lambda: _TAGS.finish(step.instance, run.run_id))


@contextmanager
def tags_at_the_end(instance: DagsterInstance, run_id: str) -> Iterator[None]:
    """Within, all steps of a run are executed by this process: their tags are written when the last one has ended."""
    try:
        with _TAGS.held(run_id):
            yield
    finally:
        with suppress(Exception):
            _TAGS.finish(instance, run_id)


def _quietly(step: Step, write: Callable[[], None]) -> None:
    try:
        write()
    except Exception as error:  # noqa: BLE001 - a tag for people is not worth a job
        step.log.debug(f"The run's tags were not written: {error_words(error)}")


def _write(instance: DagsterInstance, run_id: str, handles: Sequence[JobHandle]) -> None:
    run = instance.get_run_by_id(run_id)
    known = run.tags if run else {}
    tags = new_tags(known, handles)
    if not tags.items() <= known.items():
        instance.add_run_tags(run_id, tags)


def new_tags(known: Mapping[str, str], handles: Sequence[JobHandle]) -> dict[str, str]:
    """The tags that are written of jobs.

    One for each job, since PostgreSQL has an index on the values of tags, and takes none of more than 2,704 bytes.

    Args:
        known: What the run has.
        handles: The jobs, one or more.
    """
    jobs = {f"{JOB_TAG}{each.job_id}": posixpath.basename(each.directory.launch) for each in handles}
    places = max(0, _MOST_JOBS - sum(name.startswith(JOB_TAG) and name not in jobs for name in known))
    return {**dict(list(jobs.items())[:places]), RUN_DIRECTORY_TAG: posixpath.dirname(handles[-1].directory.launch)}


LEASE_KEY = "slurm_lease"
"""The metadata key of a lease in an engine event: `{"process": ..., "executor": ...}`, the second not always."""

NOT_KNOWN = ProcessIdentity(host="unknown", boot_id="", pid_namespace="", pid=0, started="")
"""Stands for a process that is there and was not seen; it can be judged from nowhere."""

# By process as well, since a fork inherits the memory of its parent. Two threads may both not find the key: a lease
# that is written twice says the same twice.
_executor_children: dict[tuple[int, str], bool] = {}
_leased: set[tuple[int, str]] = set()


def is_executor_child(instance: DagsterInstance, run_id: str) -> bool:
    """Whether this process was started by an executor for one step of the run, and is not the run's own worker.

    An executor's child says so in the event log before it does anything else: STEP_WORKER_STARTED with its pid
    (dagster 1.13, `executor/multiprocess.py` and `dagster api execute_step`). `multiprocessing.parent_process` cannot
    tell, since run workers are children too. Asked once for each run.
    """
    key = (os.getpid(), run_id)
    if key not in _executor_children:
        started = engine_events(instance, run_id, DagsterEventType.STEP_WORKER_STARTED)
        _executor_children[key] = any(event.metadata.get("pid") == str(os.getpid()) for event in started)
    return _executor_children[key]


def is_last_process(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether no process of the run is to come behind this one, whose steps have ended.

    The run's own process has all steps; what an executor has started for one step is the last if no other is left.
    """
    return not is_executor_child(instance, run.run_id) or not steps_to_come(instance, run)


def take_lease(
    instance: DagsterInstance | None, dagster_run: DagsterRun | None, *, step_key: str | None = None
) -> None:
    """Say in the run's event log that this process works on it; once for each process and run.

    A child of an executor names the executor's process as well, which outlives it. Nothing happens where there is no
    run, as in a function that is called directly.

    Args:
        instance: Where the run is.
        dagster_run: The run.
        step_key: The step, if the process works on one only.
    """
    if instance is None or dagster_run is None:
        return
    key = (os.getpid(), dagster_run.run_id)
    if key in _leased:
        return
    process = ProcessIdentity.of_this_process()
    executor = _executor() if is_executor_child(instance, dagster_run.run_id) else None
    lease = {"process": asdict(process), **({"executor": asdict(executor)} if executor else {})}
    report_engine_event(
        instance,
        dagster_run,
        f"This run is worked on by process {process.pid} on {process.host}. "
        "Should it die, `dagster-slurm reconcile` on that machine finishes the run.",
        {LEASE_KEY: MetadataValue.json(lease)},
        step_key=step_key,
    )
    _leased.add(key)


def leases_of(instance: DagsterInstance, run_id: str) -> list[ProcessIdentity]:
    """The processes that said they work on a run, and the executors they named; oldest first, each once."""
    return list(dict.fromkeys(_leases(instance, run_id)))


def was_terminated(instance: DagsterInstance, run_id: str) -> bool:
    """Whether a termination of the run was asked for after this process had said that it works on it.

    By the order of the run's log, not by clocks. What was asked of a process of before, this one was not.
    """
    mine = ProcessIdentity.of_this_process()
    return is_canceling_after(instance, run_id, lambda event: mine in _named_in(event))


def _leases(instance: DagsterInstance, run_id: str) -> Iterator[ProcessIdentity]:
    for event in engine_events(instance, run_id):
        yield from _named_in(event)


def _named_in(event: EngineEvent) -> Iterator[ProcessIdentity]:
    lease = event.metadata.get(LEASE_KEY)
    if isinstance(lease, dict):
        yield from (_identity(lease[name]) for name in ("process", "executor") if name in lease)


def _identity(values: object) -> ProcessIdentity:
    try:
        return ProcessIdentity.from_mapping(values)
    except ValueError:
        # Of a release that notes processes in another way. It says that there is one.
        return NOT_KNOWN


def _executor() -> ProcessIdentity | None:
    """The process whose child this one is, also behind a fork server; None if it has died meanwhile."""
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        # Started by a launcher of steps, perhaps on another machine: the run's worker is out of sight.
        return NOT_KNOWN
    return ProcessIdentity.of(parent.pid) if parent.is_alive() else None
