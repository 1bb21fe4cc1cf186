"""Which processes work on a run: said by them in the run's event log, read by whoever has to judge the run."""

from __future__ import annotations

import os

from dagster import DagsterEventType, DagsterInstance

from dagster_slurm.pipes.dagster_private import engine_events

# By process as well, since a fork inherits the memory of its parent.
_executor_children: dict[tuple[int, str], bool] = {}


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
