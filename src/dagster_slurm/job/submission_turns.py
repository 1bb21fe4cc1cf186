"""SubmissionTurns to submit: so many a second and no more, whoever asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MAX_SUBMISSIONS_PER_SECOND = 50.0


class SubmissionTurns:
    """Gives everybody who wants to submit a turn of their own.

    Args:
        per_second: How many there are in a second, on average.
        now: The clock, in seconds.
    """

    def __init__(
        self, per_second: float = MAX_SUBMISSIONS_PER_SECOND, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._pause_seconds = 1.0 / per_second
        self._now = now
        self._next = float("-inf")
        self._lock = threading.Lock()

    def take(self) -> float:
        """Take the next turn.

        Returns:
            How long it is until then, in seconds.
        """
        with self._lock:
            now = self._now()
            turn = max(now, self._next)
            self._next = turn + self._pause_seconds
            return turn - now
