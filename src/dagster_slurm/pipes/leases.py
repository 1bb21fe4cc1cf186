"""Which processes work on a run: said by them in the run's event log, read by whoever has to judge the run."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict

from dagster import DagsterEventType, DagsterInstance, DagsterRun, MetadataValue

from dagster_slurm.pipes.dagster_private import EngineEvent, engine_events, is_canceling_after, report_engine_event
from dagster_slurm.process_identity import ProcessIdentity

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
