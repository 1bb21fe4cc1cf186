"""When a watcher looks and asks again: its intervals, pauses that grow, and what does not answer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from dagster_slurm.errors import DagsterSlurmError


@dataclass(frozen=True)
class WatchIntervals:
    """How often to look, in seconds.

    Args:
        tick_seconds: Pause between two reads of the files while something is new in them.
        tick_max_seconds: The longest pause while nothing is.
        tick_many_seconds: The pause for six hundred jobs or more while something is new; for fewer it is in between.
        news_seconds: How long a read may wait on the cluster for something new.
        first_status_seconds: Pause before squeue is asked about a new job, if it was not asked just before.
        status_seconds: Pause before squeue is asked again, at first.
        status_max_seconds: The longest such pause.
        status_backoff: What such a pause grows by.
        confirm_seconds: First pause between questions about a job that seems to end.
        away_max_seconds: The longest pause while the cluster cannot be reached.
    """

    tick_seconds: float = 0.1
    tick_max_seconds: float = 0.5
    tick_many_seconds: float = 0.3
    news_seconds: float = 0.5
    first_status_seconds: float = 1.5
    status_seconds: float = 5.0
    status_max_seconds: float = 30.0
    status_backoff: float = 1.5
    confirm_seconds: float = 0.1
    away_max_seconds: float = 30.0


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


@dataclass
class Outage:
    """Whether something answers, so that a change is told once.

    Args:
        pace: When it is asked again while it does not.
        since: When it has first not answered; None while it answers.
        told: What was told of that last.
    """

    pace: Pace
    since: float | None = None
    told: type[DagsterSlurmError] | None = None

    def lost(self, now: float, error: DagsterSlurmError) -> bool:
        """It has not answered; whether that is news."""
        self.pace.asked(now)
        # What time does not mend, such as a login that has expired, is told even if something else came first.
        is_news = self.since is None or (not error.transient and type(error) is not self.told)
        self.told = type(error) if is_news else self.told
        self.since = now if self.since is None else self.since
        return is_news

    def back(self, now: float) -> float | None:
        """It has answered; after how many seconds, if it had not before."""
        since, self.since = self.since, None
        self.pace.restart(now)
        return None if since is None else now - since
