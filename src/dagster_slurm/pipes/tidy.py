"""Run directories are removed once Dagster has recorded the step's success, and not before.

Between the return of `compute.run` and that record the process may die; a retry then collects the result again from
the directory. So the removal waits: for the resource's end, or for a thread that looks now and
then, and a last time when the main thread has ended (an executor's child ends with its step).
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dagster import DagsterEventType, DagsterInstance

from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.pipes.step import Step
from dagster_slurm.run_directory import RunDirectory, remove_launches
from dagster_slurm.transport import Transport

_SUCCESS = DagsterEventType.STEP_SUCCESS
_ENDS = {_SUCCESS, DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_UP_FOR_RETRY}
# Each look asks Dagster's storage twice; what ends at about the same time is removed together.
_FIRST_SECONDS = 0.4
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
    since: float = field(default_factory=time.time)

    def is_ended_by(self, ends: Sequence[tuple[DagsterEventType, float]]) -> bool:
        """Whether the step has ended; a try before the one that has returned is no end of it."""
        return any(kind is _SUCCESS or at >= self.since for kind, at in ends)


class _Ends:
    """The ends of a run's steps. What was read once is not read again: a run may have thousands of steps."""

    def __init__(self, instance: DagsterInstance, run_id: str) -> None:
        self._instance = instance
        self._run_id = run_id
        self._cursor: str | None = None
        self._of: dict[str, list[tuple[DagsterEventType, float]]] = defaultdict(list)

    def read(self) -> None:
        """Read what is new."""
        has_more = True
        while has_more:
            news = self._instance.get_records_for_run(self._run_id, self._cursor, _ENDS)
            for record in news.records:
                entry = record.event_log_entry
                if entry.step_key is not None and entry.dagster_event is not None:
                    self._of[entry.step_key].append((entry.dagster_event.event_type, entry.timestamp))
            self._cursor, has_more = news.cursor, news.has_more

    def of(self, step_key: str) -> Sequence[tuple[DagsterEventType, float]]:
        return self._of[step_key]

    def success(self, step_key: str) -> float | None:
        """When it succeeded first, in seconds since 1970."""
        return min((at for kind, at in self._of[step_key] if kind is _SUCCESS), default=None)


class Tidy:
    """The removals that this process still owes."""

    def __init__(self) -> None:
        self._owed: list[_Removal] = []
        self._ends: dict[str, _Ends] = {}
        self._lock = threading.Lock()
        self._looking = threading.Lock()
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

    def look(self, *, is_last: bool = False) -> None:
        """Remove what may be removed by now, and forget what may never be.

        Args:
            is_last: Whether what is not seen now is never seen.
        """
        with self._looking:
            with self._lock:
                owed, self._owed = self._owed, []
            kept: list[_Removal] = []
            # What is to go of a run goes in one round trip.
            for removals in _grouped(owed).values():
                kept += self._look_at(removals, is_last=is_last)
            with self._lock:
                self._owed += kept

    def _look_at(self, removals: Sequence[_Removal], *, is_last: bool) -> list[_Removal]:
        """Remove what may be removed of one run; what may be later is returned."""
        one = removals[0]
        if is_last:
            # PostgreSQL may show an event after one that has a higher number.
            self._ends.pop(one.run_id, None)
        ends = self._ends.setdefault(one.run_id, _Ends(one.instance, one.run_id))
        try:
            ends.read()
            done = [(each, at) for each in removals if (at := ends.success(each.step_key)) is not None]
            if done:
                before = _end_of_run(one)
                _remove(one.transport, [each.launch for each, at in done if at < before], one.tell)
        except Exception:  # noqa: BLE001 - the storage may be gone already; `dagster-slurm clean` finds what is left
            return []
        return [each for each in removals if not each.is_ended_by(ends.of(each.step_key))]

    def _look_now_and_then(self) -> None:
        pause = _FIRST_SECONDS
        while True:
            threading.main_thread().join(pause)
            is_last = not threading.main_thread().is_alive()
            self.look(is_last=is_last)
            pause = min(2 * pause, _LONGEST_SECONDS)
            with self._lock:
                if is_last or not self._owed:
                    self._ends.clear()
                    self._thread = None
                    return


def _grouped(removals: Sequence[_Removal]) -> dict[tuple[str, int], list[_Removal]]:
    groups: dict[tuple[str, int], list[_Removal]] = defaultdict(list)
    for removal in removals:
        groups[removal.run_id, id(removal.transport)].append(removal)
    return groups


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
