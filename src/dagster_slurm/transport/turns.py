"""Who is next at a channel: an upload's pieces let other requests go first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turns:
    """Counts the requests that wait for a channel.

    A condition wakes a thread that waits, but does not keep a place for it: without this, an upload would take back the
    only channel before the thread it has woken could.
    """

    def __init__(self) -> None:
        self._waiting: set[Turn] = set()
        self._changed = threading.Condition()

    @contextmanager
    def wait(self) -> Iterator[Turn]:
        """While a request waits; it says when it has what it waited for."""
        turn = Turn(self._remove)
        with self._changed:
            self._waiting.add(turn)
        try:
            yield turn
        finally:
            turn.taken()

    def give_way(self) -> None:
        """Wait until all who wait now have had their turn; not for those who come meanwhile."""
        with self._changed:
            before = set(self._waiting)
            self._changed.wait_for(lambda: not before & self._waiting)

    def _remove(self, turn: Turn) -> None:
        with self._changed:
            self._waiting.discard(turn)
            self._changed.notify_all()


class Turn:
    """One request's wait."""

    def __init__(self, end: Callable[[Turn], None]) -> None:
        self._end = end

    def taken(self) -> None:
        """The wait is over; again is no error."""
        self._end(self)
