"""stdout and stderr by thread: what a step on a thread of its own prints goes to the step's own logs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

_own = threading.local()


def stream_of_this_thread(name: str) -> TextIO | None:
    """The stream `stdout` or `stderr` of the step that runs on this thread; None if it has none of its own."""
    streams: Mapping[str, TextIO] = getattr(_own, "streams", {})
    return streams.get(name)


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
