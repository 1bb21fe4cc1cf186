"""Lines for a run's log that nobody has to wait for, written by one thread of this process.

Each line is a transaction of Dagster's database, one after the other for all steps of a process. A step that wrote its
lines itself would pass on its payload's output late where hundreds of jobs begin or end at once.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

_Line = Callable[[], object]


class _Writer:
    """The thread, and what it has to do. It ends with the process."""

    def __init__(self) -> None:
        self._process = -1
        self._lock = threading.Lock()
        self._lines: queue.SimpleQueue[_Line] = queue.SimpleQueue()

    def put(self, line: _Line) -> None:
        with self._lock:
            if self._process != os.getpid():
                # A fork has no threads of its parent.
                self._process, self._lines = os.getpid(), queue.SimpleQueue()
                threading.Thread(
                    target=self._write, args=(self._lines,), name="dagster-slurm-lines", daemon=True
                ).start()
            self._lines.put(line)

    @staticmethod
    def _write(lines: queue.SimpleQueue[_Line]) -> None:
        while True:
            lines.get()()


_WRITER = _Writer()


class Teller:
    """The lines of one step."""

    def __init__(self) -> None:
        self._error: Exception | None = None

    def tell(self, line: _Line) -> None:
        """Write a line soon, behind those that were told before."""

        def write() -> None:
            try:
                line()
            except Exception as error:  # noqa: BLE001 - raised again by the step's own thread
                self._error = self._error or error

        _WRITER.put(write)

    def finish(self) -> None:
        """Wait until all lines are written.

        Raises:
            Exception: What the first one that was not written has raised.
        """
        written = threading.Event()
        _WRITER.put(written.set)
        written.wait()
        if self._error is not None:
            raise self._error
