"""When to ask next: pauses that grow while nothing happens."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass
class Pace:
    """A pause that grows by a factor up to a limit, and starts anew when something happens.

    Args:
        first_seconds: The shortest pause.
        limit_seconds: The longest.
        factor: What a pause grows by each time.
        jitter: Share of the pause that is left to chance, so that many processes do not ask as one.
        since: If given, pauses grow with the time since then, as they would if it was asked at each pause's end: what
            others ask meanwhile makes them no longer.
    """

    first_seconds: float
    limit_seconds: float
    factor: float = 1.5
    jitter: float = 0.0
    due: float = 0.0
    since: float | None = None
    _pause_seconds: float = 0.0

    def restart(self, now: float) -> None:
        """Something happened: due at once, and the pauses are short again."""
        self.due, self._pause_seconds = now, 0.0
        self.since = None if self.since is None else now

    def hurry(self, now: float) -> None:
        """Something happened: due after the shortest pause at the latest."""
        self._pause_seconds = 0.0
        self.due = min(self.due, now + self.first_seconds)

    def asked(self, now: float) -> None:
        """It was asked now: the next time is one, longer, pause away."""
        self._pause_seconds = min(max(self._grown(now), self.first_seconds), self.limit_seconds)
        spread = self._pause_seconds * self.jitter
        self.due = now + self._pause_seconds + random.uniform(-spread, spread)  # noqa: S311

    def _grown(self, now: float) -> float:
        if self.since is not None:
            # Of pauses a, a*f, a*f*f ... the next is a, and f - 1 of the time that those before it have taken.
            return self.first_seconds + (now - self.since) * (self.factor - 1.0)
        return self._pause_seconds * self.factor if self._pause_seconds else self.first_seconds

    def is_due(self, now: float) -> bool:
        """Whether to ask now."""
        return now >= self.due
