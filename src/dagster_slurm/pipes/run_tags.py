"""Job ids and run directory in the run's tags: for people. Nothing relies on them.

Tags are written without a lock, so that one of two processes' may be lost, and Dagster's daemon copies them to retries.
"""

from __future__ import annotations

import posixpath
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence

from dagster import DagsterInstance, OpExecutionContext

from dagster_slurm.job.handle import JobHandle
from dagster_slurm.pipes.dagster_private import dagster_run

JOB_ID_TAG = "slurm/job_id"
RUN_DIRECTORY_TAG = "slurm/run_directory"


class _Tags:
    """Writes the tags of this process's runs: the thread that comes first also for those that come meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[JobHandle]] = defaultdict(list)
        self._writing: set[str] = set()

    def add(self, instance: DagsterInstance, run_id: str, handle: JobHandle) -> None:
        with self._lock:
            self._waiting[run_id].append(handle)
            if run_id in self._writing:
                return
            self._writing.add(run_id)
        while handles := self._taken(run_id):
            try:
                _write(instance, run_id, handles)
            except BaseException:
                self._writing.discard(run_id)
                raise

    def _taken(self, run_id: str) -> Sequence[JobHandle]:
        with self._lock:
            handles = self._waiting.pop(run_id, [])
            if not handles:
                self._writing.discard(run_id)
            return handles


_TAGS = _Tags()


def tell_in_tags(step: OpExecutionContext, handle: JobHandle) -> None:
    """Add a job to the tags of the step's run."""
    if dagster_run(step) is None:
        return
    try:
        _TAGS.add(step.instance, step.run_id, handle)
    except Exception as error:  # noqa: BLE001 - a tag for people is not worth a job
        step.log.debug(f"The run's tags were not written: {error!r}")


def _write(instance: DagsterInstance, run_id: str, handles: Sequence[JobHandle]) -> None:
    run = instance.get_run_by_id(run_id)
    known: Mapping[str, str] = run.tags if run else {}
    ids = dict.fromkeys([*filter(None, known.get(JOB_ID_TAG, "").split(", ")), *(each.job_id for each in handles)])
    directory = posixpath.dirname(handles[-1].directory.launch)
    instance.add_run_tags(run_id, {JOB_ID_TAG: ", ".join(ids), RUN_DIRECTORY_TAG: directory})
