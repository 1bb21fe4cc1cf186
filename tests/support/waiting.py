"""Waiting for what another process does, with a limit; and doing several things at the same time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
# Longer than all that a test waits for; the ends of jobs take their time on a busy machine.
PATIENCE_SECONDS = 90.0

# So much longer a loaded machine may take for what it does when it is quiet.
MOST_TIMES = 4.0


def stretched(seconds: float) -> int:
    """For a limit that a test gives to what it tries: so much longer as processes wait for each processor now."""
    times = os.getloadavg()[0] / (os.cpu_count() or 1)
    return round(seconds * min(max(times, 1.0), MOST_TIMES))


def eventually(
    look: Callable[[], T | None],
    what: str | Callable[[], object] = "it",
    *,
    seconds: float = PATIENCE_SECONDS,
    pause_seconds: float = 0.05,
) -> T:
    """Look until there is something to see, and return it.

    Args:
        look: Called again and again, until what it returns is true.
        what: What is waited for, or a function that tells how things stand when time is up.
        seconds: For how long to look.
        pause_seconds: Between two looks; twice as long as a look takes, if that is more.
    """
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if seen := look():
            return seen
        ended = time.monotonic()
        assert ended < deadline, f"{what() if callable(what) else what}: not after {seconds:.0f} s"
        time.sleep(max(pause_seconds, min(2 * (ended - began), 0.5)))


def written(path: Path) -> str:
    """The text of a file with a whole line, and else nothing: a file is there before what is written to it."""
    text = path.read_text() if path.exists() else ""
    return text if text.endswith("\n") else ""


def at_the_same_time(do: Callable[[T], R], items: Iterable[T], *, most: int = 5) -> list[R]:
    """Do it for all, some at once; all are done before the first failure is raised."""
    with ThreadPoolExecutor(max_workers=most) as pool:
        futures = [pool.submit(do, item) for item in items]
    return [future.result() for future in futures]
