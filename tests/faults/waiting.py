"""Waiting for what another process does, with a limit; and doing several things at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def eventually(look: Callable[[], T | None], what: str, *, seconds: float = 90.0, pause_seconds: float = 0.1) -> T:
    """Look until there is something to see, and return it."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"{what}: not after {seconds:.0f} s"
        time.sleep(pause_seconds)
    return seen


def at_the_same_time(do: Callable[[T], R], items: Iterable[T], *, most: int = 5) -> list[R]:
    """Do it for all, some at once; all are done before the first failure is raised."""
    with ThreadPoolExecutor(max_workers=most) as pool:
        futures = [pool.submit(do, item) for item in items]
    return [future.result() for future in futures]
