"""The payload's stdout and stderr in the compute logs of its step, while it runs."""

from __future__ import annotations

import os
import sys
from collections import deque
from typing import TextIO

from dagster_slurm.pipes.thread_streams import stream_of_this_thread

_TAIL_LINES = 30
_TAIL_LINE_BYTES = 2000
_LONGEST_PART_BYTES = 1 << 16


class StepLogs:
    """Writes to what is captured for the step, this thread's streams or this process's, and remembers the end."""

    def __init__(self) -> None:
        self._descriptors = {
            "stdout": _descriptor(stream_of_this_thread("stdout") or sys.stdout, 1),
            "stderr": _descriptor(stream_of_this_thread("stderr") or sys.stderr, 2),
        }
        self._tail = Tail()

    def write(self, stream: str, data: bytes) -> None:
        """Pass on bytes of `stdout` or `stderr` as they are."""
        if stream == "stderr":
            self._tail.remember(data)
        _write_all(self._descriptors[stream], data)

    @property
    def stderr_tail(self) -> str:
        """The last lines of stderr."""
        return str(self._tail)

    def finish(self) -> None:
        """All of it was passed on."""


class Tail:
    """The last lines of a stream."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._rest = b""

    def __str__(self) -> str:
        lines = [*self._lines, self._rest] if self._rest else [*self._lines]
        return b"\n".join(lines[-_TAIL_LINES:]).decode("utf-8", "replace")

    def remember(self, data: bytes) -> None:
        """Take in what was written."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_TAIL_LINE_BYTES:]
        self._lines.extend(line[:_TAIL_LINE_BYTES] for line in lines[-_TAIL_LINES:])


class LabelledLogs:
    """The streams of one of many payloads, whole line by whole line among those of the others.

    Args:
        logs: Where they go.
        label: What each line begins with.
    """

    def __init__(self, logs: StepLogs, label: str) -> None:
        self._logs = logs
        self._prefix = f"[{label}] ".encode()
        self._rest = {"stdout": b"", "stderr": b""}
        self._tail = Tail()

    @property
    def stderr_tail(self) -> str:
        """The last lines of stderr."""
        return str(self._tail)

    def write(self, stream: str, data: bytes) -> None:
        """Pass on bytes; the beginning of a line waits for its end, if that is not too long."""
        if stream == "stderr":
            self._tail.remember(data)
        lines = (self._rest[stream] + data).split(b"\n")
        self._rest[stream] = lines.pop() if len(lines[-1]) < _LONGEST_PART_BYTES else b""
        self._pass_on(stream, lines)

    def finish(self) -> None:
        """Pass on what has no end."""
        for stream, rest in self._rest.items():
            self._pass_on(stream, [rest] if rest else [])
            self._rest[stream] = b""

    def _pass_on(self, stream: str, lines: list[bytes]) -> None:
        if lines:
            self._logs.write(stream, b"".join(self._prefix + line + b"\n" for line in lines))


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
