"""The payload's stdout and stderr in the compute logs of its step, while it runs."""

from __future__ import annotations

import os
import sys
from collections import deque
from typing import TextIO

from dagster_slurm.pipes.thread_streams import stream_of_this_thread

_TAIL_LINES = 30
_TAIL_LINE_BYTES = 2000


class StepLogs:
    """Writes to what is captured for the step, this thread's streams or this process's, and remembers the end."""

    def __init__(self) -> None:
        self._descriptors = {
            "stdout": _descriptor(stream_of_this_thread("stdout") or sys.stdout, 1),
            "stderr": _descriptor(stream_of_this_thread("stderr") or sys.stderr, 2),
        }
        self._tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._rest = b""

    def write(self, stream: str, data: bytes) -> None:
        """Pass on bytes of `stdout` or `stderr` as they are."""
        if stream == "stderr":
            self._remember(data)
        _write_all(self._descriptors[stream], data)

    def stderr_tail(self) -> str:
        """The last lines of stderr."""
        lines = [*self._tail, self._rest] if self._rest else [*self._tail]
        return b"\n".join(lines[-_TAIL_LINES:]).decode("utf-8", "replace")

    def _remember(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_TAIL_LINE_BYTES:]
        self._tail.extend(line[:_TAIL_LINE_BYTES] for line in lines[-_TAIL_LINES:])


def _descriptor(stream: TextIO, otherwise: int) -> int:
    """The descriptor behind a stream, which is what Dagster redirects; its buffered text was printed before."""
    stream.flush()
    try:
        return stream.fileno()
    except (OSError, ValueError):
        # A notebook's stream has none (io.UnsupportedOperation is both).
        return otherwise


def _write_all(descriptor: int, data: bytes) -> None:
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]
