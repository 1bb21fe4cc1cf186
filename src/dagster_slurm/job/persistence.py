"""Repeats what may be repeated while a cluster cannot be reached."""

from __future__ import annotations

import time
from collections.abc import Callable
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
from dagster_slurm.job.watched import Pace

T = TypeVar("T")

_FIRST_CONTACT_SECONDS = 300.0
_MAX_CORRUPTED = 3


class Persistence:
    """Makes calls that may be made again, as often as it takes.

    A cluster that this process has reached before is waited for without limit, and so is a login that has expired. One
    that was never reached is given up after five minutes: its address may be wrong.

    Args:
        tell: Told a text and its level when the cluster goes away and when it is back.
        reached: Whether this process has reached the cluster before.
        now: The clock, in seconds.
        sleep: Waits for some seconds.
        give_up_at: When no call is made again any more, whatever its error, by that clock.
    """

    def __init__(
        self,
        *,
        tell: Callable[[str, str], None],
        reached: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        give_up_at: float = float("inf"),
    ) -> None:
        self._tell = tell
        self._reached = reached
        self._now = now
        self._sleep = sleep
        self._give_up_at = give_up_at

    def __call__(self, call: Callable[[], T]) -> T:
        """Make the call until it gives an answer.

        Raises:
            DagsterSlurmError: One that waiting does not mend.
        """
        begun, failures, corrupted = self._now(), 0, 0
        told: type[DagsterSlurmError] | None = None
        away, full = Pace(1.0, 30.0, 1.6, jitter=0.2), Pace(3.0, 6.0, 1.2, jitter=0.2)
        while True:
            try:
                result = call()
            except DagsterSlurmError as error:
                corrupted += isinstance(error, TransferCorruptedError)
                if corrupted >= _MAX_CORRUPTED or not self._worth_waiting(error, self._now() - begun):
                    raise
                # What time does not mend, such as a login that has expired, is told even if something else came first.
                if told is None or (not error.transient and type(error) is not told):
                    told = type(error)
                    what = (
                        "Slurm takes no more jobs now"
                        if isinstance(error, SubmitLimitError)
                        else "The cluster does not answer"
                    )
                    self._tell(f"{what}; waiting. {error}", "warning")
                failures += 1
                # A place is taken again soon, and of all that wait for one, one asks (`SlurmCluster.check`).
                pace = full if isinstance(error, SubmitLimitError) else away
                pace.asked(self._now())
                self._sleep(max(0.0, pace.due - self._now()))
            else:
                if failures and told is SubmitLimitError:
                    self._tell(f"There is a place again, after {self._now() - begun:.0f} s", "info")
                elif failures:
                    self._tell(f"The cluster answers again, after {self._now() - begun:.0f} s", "info")
                return result

    def _worth_waiting(self, error: DagsterSlurmError, waited_seconds: float) -> bool:
        if self._now() >= self._give_up_at:
            return False
        if self._reached():
            return error.transient or isinstance(error, (AuthenticationError, HostNotFoundError))
        out_of_reach = isinstance(error, (ConnectionFailedError, TransportTimeoutError))
        return error.transient and not (out_of_reach and waited_seconds > _FIRST_CONTACT_SECONDS)
