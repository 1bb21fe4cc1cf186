"""Signals and the run's status, for all steps that run on threads of one process.

Only the main thread gets signals, and a hundred steps that each ask for the run's status would ask a hundred times.
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

from dagster_slurm.pipes.intent import Intent, decide_intent

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STATUS_SECONDS = 3.0


@dataclass
class RunSignals:
    """What has happened to one run, as far as this process knows."""

    instance: DagsterInstance
    run: DagsterRun
    times: list[float] = field(default_factory=list)
    status: DagsterRunStatus | None = None
    _due: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run_status(self, *, afresh: bool) -> DagsterRunStatus | None:
        """The run's status; asked for at most every few seconds, unless wanted afresh."""
        with self._lock:
            now = time.monotonic()
            if afresh or now >= self._due:
                self._due = now + STATUS_SECONDS
                run = self.instance.get_run_by_id(self.run.run_id)
                self.status = run.status if run else None
            return self.status


class Shared:
    """The runs whose steps are on threads of this process."""

    def __init__(self) -> None:
        self._runs: dict[str, RunSignals] = {}

    @contextmanager
    def of_run(self, instance: DagsterInstance, run: DagsterRun) -> Iterator[RunSignals]:
        """Listen for signals, on behalf of all steps of a run."""
        mine = RunSignals(instance, run)

        def note(_number: int, _frame: FrameType | None) -> None:
            mine.times.append(time.monotonic())

        replaced: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            # What is ignored stays so (`nohup`).
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            replaced = {number: signal.signal(number, note) for number in heard}
        self._runs[run.run_id] = mine
        try:
            yield mine
        finally:
            del self._runs[run.run_id]
            for number, handler in replaced.items():
                # None stands for a handler that was not installed from Python.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def find(self, run_id: str | None) -> RunSignals | None:
        """What is known of a run whose steps are on threads of this process; None if they are not."""
        return self._runs.get(run_id or "")

    def is_to_stop(self, run_id: str) -> bool:
        """Whether no further step is to begin: the run was terminated or taken over, or this process is to end."""
        mine = self._runs[run_id]
        status = mine.run_status(afresh=bool(mine.times) and mine.status is None)
        return decide_intent(status, mine.times, lambda: False) is not Intent.GO_ON


SHARED = Shared()
