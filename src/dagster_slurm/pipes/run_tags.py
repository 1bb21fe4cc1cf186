"""Job ids and run directory in the run's tags: for people. Nothing relies on them.

Tags are written without a lock, so that one of two processes' may be lost, and Dagster's daemon copies them to retries.
"""

from __future__ import annotations

import posixpath
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from dagster import DagsterInstance

from dagster_slurm.pipes.step import Step
from dagster_slurm.run_directory import JobHandle

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
        step.log.debug(f"The run's tags were not written: {error!r}")


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
