"""What has happened to a run, as far as this process knows: signals, and its status.

The steps of a run that are on threads share one account of it: only the main thread gets signals, and a hundred steps
that each ask for the run's status would ask a hundred times.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from dagster_slurm.job.shared_answers import seconds_since_boot
from dagster_slurm.pipes.intent import Intent, decide_intent

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STATUS_SECONDS = 3.0
"""How old a run's status may be while nothing has happened."""


@dataclass
class RunSignals:
    """The account of one run.

    Args:
        instance: Where the run is recorded; None without a run.
        run: The run; None for a function that is called directly.
    """

    instance: DagsterInstance | None
    run: DagsterRun | None
    times: list[float] = field(default_factory=list)
    status: DagsterRunStatus | None = None
    error: Exception | None = None
    _asked: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Note the signals of this process while the block lasts; on another thread than the main one none arrive."""
        replaced: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            # What is ignored stays so (`nohup`).
            heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            replaced = {number: signal.signal(number, self._note) for number in heard}
        try:
            yield
        finally:
            for number, handler in replaced.items():
                # None stands for a handler that was not installed from Python.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.times.append(time.monotonic())

    def run_status(self, *, max_age_seconds: float) -> DagsterRunStatus | None:
        """The run's status, as it was not longer than that before this call.

        Without an answer it is what it was before, and `error` says why.
        """
        # A machine that sleeps in between has all the time that others need to end the run.
        # Of many threads that come while one asks, one asks for all.
        oldest = seconds_since_boot() - max_age_seconds
        with self._lock:
            if self.instance is not None and self.run is not None and self._asked <= oldest:
                self._asked = seconds_since_boot()
                try:
                    run = self.instance.get_run_by_id(self.run.run_id)
                except Exception as error:  # noqa: BLE001 - a database that is away must not end the monitoring of a job
                    self.error = error
                else:
                    self.error, self.status = None, run.status if run else None
            return self.status


class Shared:
    """The runs whose steps are on threads of this process."""

    def __init__(self) -> None:
        self._runs: dict[str, RunSignals] = {}

    @contextmanager
    def of_run(self, instance: DagsterInstance, run: DagsterRun) -> Iterator[None]:
        """Keep one account for all steps of a run."""
        mine = self._runs[run.run_id] = RunSignals(instance, run)
        try:
            with mine.listen():
                yield
        finally:
            del self._runs[run.run_id]

    def find(self, run: DagsterRun | None) -> RunSignals | None:
        """The account of a run whose steps are on threads of this process; None if they are not."""
        return None if run is None else self._runs.get(run.run_id)

    def is_to_stop(self, run_id: str) -> bool:
        """Whether no further step is to begin: the run was terminated or taken over, or this process is to end."""
        mine = self._runs[run_id]
        status = mine.run_status(max_age_seconds=0.0 if mine.times and mine.status is None else STATUS_SECONDS)
        return decide_intent(status, mine.times, lambda: False) is not Intent.GO_ON


SHARED = Shared()
