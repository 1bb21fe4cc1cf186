"""The payload's stdout and stderr in the compute logs of its step, while it runs."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

_LOG = logging.getLogger(__name__)
_TAIL_LINES = 30
_TAIL_LINE_BYTES = 2000
_LONGEST_PART_BYTES = 1 << 16
_BAR_SECONDS = 10.0


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
        lines = [*self._lines, shown(self._rest)] if self._rest else [*self._lines]
        return b"\n".join(lines[-_TAIL_LINES:]).decode("utf-8", "replace")

    def remember(self, data: bytes) -> None:
        """Take in what was written."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = shown(rest)[-_TAIL_LINE_BYTES:] + (b"\r" if rest.endswith(b"\r") else b"")
        self._lines.extend(shown(line)[:_TAIL_LINE_BYTES] for line in lines[-_TAIL_LINES:])


def shown(line: bytes) -> bytes:
    """What a terminal shows of a line: a progress bar returns to its beginning, and writes it anew."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]


class LabelledLogs:
    """The streams of one of many payloads, whole line by whole line among those of the others.

    Of a line that is written again and again, as a progress bar is, there is the state of now and then, and the last.

    Args:
        logs: Where they go.
        label: What each line begins with.
        now: The clock, in seconds.
    """

    def __init__(self, logs: StepLogs, label: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._logs = logs
        self._now = now
        self._bar_at = {"stdout": float("-inf"), "stderr": float("-inf")}
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
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        lines = [shown(line) for line in lines]
        if b"\r" in rest.rstrip(b"\r"):
            before, _, begun = rest.rpartition(b"\r")
            rest = shown(before) + b"\r" + begun
            if self._now() - self._bar_at[stream] >= _BAR_SECONDS:
                self._bar_at[stream] = self._now()
                lines.append(shown(before))
        if len(rest) >= _LONGEST_PART_BYTES:
            lines.append(rest)
            rest = b""
        self._rest[stream] = rest
        self._pass_on(stream, lines)

    def finish(self) -> None:
        """Pass on what has no end."""
        for stream, rest in self._rest.items():
            self._pass_on(stream, [shown(rest)] if rest else [])
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


_own = threading.local()


def stream_of_this_thread(name: str) -> TextIO | None:
    """The stream `stdout` or `stderr` of the step that runs on this thread; None if it has none of its own."""
    streams: Mapping[str, TextIO] = getattr(_own, "streams", {})
    return streams.get(name)


def with_streams_of_this_thread(work: Callable[[], None]) -> Callable[[], None]:
    """Have a function, on a thread of its own, print where this thread prints."""
    streams = getattr(_own, "streams", {})

    def run() -> None:
        _own.streams = streams
        work()

    return run


class _ByThread:
    """Looks like the process's stream, and writes to the thread's."""

    def __init__(self, name: str, shared: TextIO) -> None:
        self._name = name
        self._shared = shared

    def write(self, text: str) -> int:
        own = stream_of_this_thread(self._name)
        if own is None:
            return self._shared.write(text)
        written = own.write(text)
        own.flush()
        return written

    def flush(self) -> None:
        (stream_of_this_thread(self._name) or self._shared).flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared, name)


class ThreadStreams:
    """Puts itself in the place of `sys.stdout` and `sys.stderr` while the block lasts."""

    def __enter__(self) -> ThreadStreams:
        self._before = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = _ByThread("stdout", sys.stdout), _ByThread("stderr", sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._before

    @contextmanager
    def of_this_thread(self, streams: Mapping[str, TextIO]) -> Iterator[None]:
        """What this thread prints goes there."""
        _own.streams = streams
        try:
            yield
        finally:
            _own.streams = {}


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

    def finish(self) -> None:
        """Wait until all lines are written that were put before."""
        written = threading.Event()
        self.put(written.set)
        written.wait()

    @staticmethod
    def _write(lines: queue.SimpleQueue[_Line]) -> None:
        while True:
            lines.get()()


_WRITER = _Writer()
_AWAITED_LATER: set[str] = set()


@contextmanager
def lines_of_the_run(run_id: str) -> Iterator[None]:
    """Wait at the end of this block for the lines of a run's steps, and not at the end of each step.

    Args:
        run_id: The run, all of whose steps are in this process.
    """
    _AWAITED_LATER.add(run_id)
    try:
        yield
    finally:
        _AWAITED_LATER.discard(run_id)
        _WRITER.finish()


class Teller:
    """The lines of one step.

    Args:
        run_id: Its run.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._error: Exception | None = None

    def tell(self, line: _Line) -> None:
        """Write a line soon, behind those that were told before."""

        def write() -> None:
            try:
                line()
            except Exception as error:  # noqa: BLE001 - raised again by the step's own thread, if it is still there
                self._error = self._error or error
                _LOG.exception("A line of run %s was not written", self._run_id)

        _WRITER.put(write)

    def finish(self) -> None:
        """Wait until all lines are written, unless the run waits for them.

        With 500 steps on threads, the last to end would wait for some thousand lines of the others.

        Raises:
            Exception: What the first one that was not written has raised.
        """
        if self._run_id not in _AWAITED_LATER:
            _WRITER.finish()
        if self._error is not None:
            raise self._error
