"""Run directories are removed once Dagster has recorded the step's success, and not before.

Between the return of `compute.run` and that record the process may die; a retry then collects the result again from
the directory. So the removal waits: for the resource's end, or for a thread that looks now and
then, and a last time when the main thread has ended (an executor's child ends with its step).
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dagster import DagsterEventType, DagsterInstance

from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.pipes.launch_key import first_events
from dagster_slurm.pipes.step import Step
from dagster_slurm.run_directory import RunDirectory, remove_launches
from dagster_slurm.transport import Transport

_ENDS = (DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_UP_FOR_RETRY)
_FIRST_SECONDS = 0.05
_LONGEST_SECONDS = 5.0


@dataclass(frozen=True)
class _Removal:
    """What is to be removed, and after which step's success."""

    instance: DagsterInstance
    run_id: str
    step_key: str
    transport: Transport
    launch: RunDirectory
    tell: Callable[[str], None]


class Tidy:
    """The removals that this process still owes."""

    def __init__(self) -> None:
        self._owed: list[_Removal] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def after_success(self, step: Step, transport: Transport, launch: RunDirectory) -> None:
        """Remove when the step has succeeded; at once for a function that is called directly, which has no record."""
        if step.run is None:
            _remove(transport, [launch], step.log.warning)
            return
        removal = _Removal(step.instance, step.run.run_id, step.key, transport, launch, step.log.warning)
        with self._lock:
            self._owed.append(removal)
            # Not alive behind a fork.
            if self._thread is None or not self._thread.is_alive():
                # Not a daemon: the interpreter waits for its last look.
                self._thread = threading.Thread(target=self._look_now_and_then, name="dagster-slurm-tidy")
                self._thread.start()

    def look(self) -> None:
        """Remove what may be removed by now, and forget what may never be."""
        with self._lock:
            owed, self._owed = self._owed, []
        kept: list[_Removal] = []
        # Of a run with hundreds of steps, the log is read once, and what is to go goes in one round trip.
        for removals in _grouped(owed).values():
            kept += _look_at(removals)
        with self._lock:
            self._owed += kept

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


def _grouped(removals: Sequence[_Removal]) -> dict[tuple[str, int], list[_Removal]]:
    groups: dict[tuple[str, int], list[_Removal]] = defaultdict(list)
    for removal in removals:
        groups[removal.run_id, id(removal.transport)].append(removal)
    return groups


def _look_at(removals: Sequence[_Removal]) -> list[_Removal]:
    """Remove what may be removed of one run; what may be later is returned."""
    one = removals[0]
    try:
        succeeded = first_events(one.instance, one.run_id, DagsterEventType.STEP_SUCCESS)
        done = [removal for removal in removals if removal.step_key in succeeded]
        rest = [removal for removal in removals if removal.step_key not in succeeded]
        over = first_events(one.instance, one.run_id, *_ENDS) if rest else {}
        if done:
            before = _end_of_run(one)
            counting = [removal for removal in done if succeeded[removal.step_key] < before]
            _remove(one.transport, [removal.launch for removal in counting], one.tell)
    except Exception:  # noqa: BLE001 - the storage may be gone already; `dagster-slurm clean` finds what is left
        return []
    return [removal for removal in rest if removal.step_key not in over]


def _end_of_run(removal: _Removal) -> float:
    """When the run has ended. A success that was recorded later does not count: a retry may be reading there."""
    record = removal.instance.get_run_record_by_id(removal.run_id)
    return record.end_time if record is not None and record.end_time is not None else float("inf")


def _remove(transport: Transport, launches: Sequence[RunDirectory], tell: Callable[[str], None]) -> None:
    try:
        remove_launches(transport, launches)
    except DagsterSlurmError as error:
        # The result is in hand; what is left over is not worth failing for.
        tell(f"The run directory was not removed; `dagster-slurm clean` finds it: {error}")


TIDY = Tidy()
