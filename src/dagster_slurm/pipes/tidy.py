"""Run directories are removed once Dagster has recorded the step's success, and not before.

Between the return of `compute.run` and that record the process may die; a retry then collects the result again from
the directory. So the removal waits: for the resource's end, for the next call in this process, or for a thread that
looks now and then, and a last time when the main thread has ended (an executor's child ends with its step).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from dagster import DagsterEventType, DagsterInstance, OpExecutionContext

from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.pipes.dagster_private import dagster_run, step_key
from dagster_slurm.pipes.lineage import step_has, succeeded_before

_ENDS = (DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_UP_FOR_RETRY)
_FIRST_SECONDS = 0.05
_LONGEST_SECONDS = 5.0


@dataclass(frozen=True)
class _Removal:
    """What is to be removed, and after which step's success."""

    instance: DagsterInstance
    run_id: str
    step_key: str
    remove: Callable[[], None]
    tell: Callable[[str], None]


class Tidy:
    """The removals that this process still owes."""

    def __init__(self) -> None:
        self._owed: list[_Removal] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def after_success(self, step: OpExecutionContext, remove: Callable[[], None]) -> None:
        """Remove when the step has succeeded; at once for a function that is called directly, which has no record."""
        run = dagster_run(step)
        if run is None:
            _remove(remove, step.log.warning)
            return
        removal = _Removal(step.instance, run.run_id, step_key(step), remove, step.log.warning)
        with self._lock:
            self._owed.append(removal)
            if self._thread is None:
                # Not a daemon: the interpreter waits for its last look.
                self._thread = threading.Thread(target=self._look_now_and_then, name="dagster-slurm-tidy")
                self._thread.start()

    def look(self) -> None:
        """Remove what may be removed by now, and forget what may never be."""
        with self._lock:
            owed, self._owed = self._owed, []
        kept = [removal for removal in owed if not self._is_done_with(removal)]
        with self._lock:
            self._owed += kept

    def _is_done_with(self, removal: _Removal) -> bool:
        try:
            if step_has(removal.instance, removal.run_id, removal.step_key, DagsterEventType.STEP_SUCCESS):
                if _counts(removal):
                    _remove(removal.remove, removal.tell)
                return True
            return step_has(removal.instance, removal.run_id, removal.step_key, *_ENDS)
        except Exception:  # noqa: BLE001 - the storage may be gone already; `dagster-slurm clean` finds what is left
            return True

    def _look_now_and_then(self) -> None:
        pause = _FIRST_SECONDS
        while True:
            threading.main_thread().join(pause)
            is_last = not threading.main_thread().is_alive()
            self.look()
            pause = min(2 * pause, _LONGEST_SECONDS)
            with self._lock:
                if is_last or not self._owed:
                    self._thread = None
                    return


def _counts(removal: _Removal) -> bool:
    """Whether the step's success came before the end of its run: later, a retry may be reading the directory."""
    record = removal.instance.get_run_record_by_id(removal.run_id)
    if record is None or record.end_time is None:
        return True
    return succeeded_before(removal.instance, removal.run_id, removal.step_key, record.end_time)


def _remove(remove: Callable[[], None], tell: Callable[[str], None]) -> None:
    try:
        remove()
    except DagsterSlurmError as error:
        # The result is in hand; what is left over is not worth failing for.
        tell(f"The run directory was not removed; `dagster-slurm clean` finds it: {error}")


TIDY = Tidy()
