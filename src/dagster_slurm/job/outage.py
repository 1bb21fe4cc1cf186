"""What does not answer: when it is asked again, and what is said of it meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dagster_slurm.errors import (
    AuthenticationError,
    ConnectionFailedError,
    DagsterSlurmError,
    HostNotFoundError,
    SubmitLimitError,
    TransferCorruptedError,
    TransportTimeoutError,
)

T = TypeVar("T")

_MAX_CORRUPTED = 3
_OUT_OF_REACH = (ConnectionFailedError, TransportTimeoutError)


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


def until_answered(
    call: Callable[[], T],
    *,
    tell: Callable[[str, str], None],
    reached: Callable[[], bool],
    first_contact_seconds: Callable[[], float],
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    give_up_at: float = float("inf"),
) -> T:
    """Make a call that may be made again, as often as it takes.

    A cluster that this process has reached before is waited for without limit, and so is a login that has expired. One
    that was never reached is given up after a while: its address may be wrong.

    Args:
        call: The call.
        tell: Told a text and its level when the cluster goes away and when it is back.
        reached: Whether this process has reached the cluster before.
        first_contact_seconds: How long one is tried that was never reached; asked once, when it does not answer.
        now: The clock, in seconds.
        sleep: Waits for some seconds.
        give_up_at: When it is not made again any more, whatever its error, by that clock.

    Raises:
        DagsterSlurmError: One that waiting does not mend.
    """
    begun, corrupted = now(), 0
    contact_until: float | None = None
    away, full = Pace(1.0, 30.0, 1.6, jitter=0.2), Pace(3.0, 6.0, 1.2, jitter=0.2)
    outage = Outage(away)
    while True:
        try:
            result = call()
        except DagsterSlurmError as error:
            corrupted += isinstance(error, TransferCorruptedError)
            if isinstance(error, _OUT_OF_REACH) and not reached() and contact_until is None:
                contact_until = begun + first_contact_seconds()
            limit = contact_until if isinstance(error, _OUT_OF_REACH) and not reached() else None
            is_late = now() >= give_up_at or (limit is not None and now() >= limit)
            if corrupted >= _MAX_CORRUPTED or is_late or not _is_worth_waiting(error, was_reached=reached()):
                raise
            # A place is taken again soon, and of all that wait for one, one asks (`SlurmCluster.check`).
            outage.pace = full if isinstance(error, SubmitLimitError) else away
            if outage.lost(now(), error):
                tell(f"{_what(error, None if limit is None else limit - now())}. {error}", "warning")
            due = outage.pace.due if limit is None else min(outage.pace.due, limit)
            sleep(max(0.0, due - now()))
        else:
            if outage.since is not None:
                does = "There is a place again" if outage.told is SubmitLimitError else "The cluster answers again"
                tell(f"{does}, after {now() - begun:.0f} s", "info")
            return result


def _what(error: DagsterSlurmError, left_seconds: float | None) -> str:
    if isinstance(error, SubmitLimitError):
        return "Slurm takes no more jobs now; waiting"
    if left_seconds is not None:
        return f"The cluster does not answer; it is tried for {max(0.0, left_seconds):.0f} s more"
    return "The cluster does not answer; waiting"


def _is_worth_waiting(error: DagsterSlurmError, *, was_reached: bool) -> bool:
    return error.transient or (was_reached and isinstance(error, (AuthenticationError, HostNotFoundError)))
