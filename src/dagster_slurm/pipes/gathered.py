"""One question for all threads that have it at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass
class _Batch(Generic[K, V]):
    keys: set[K] = field(default_factory=set)
    answers: Mapping[K, V] | None = None
    error: Exception | None = None


class Gathered(Generic[K, V]):
    """Asks about many keys at once. While one question is under way those that come wait, and the next is for them all.

    So no answer is older than the call that gets it. What is asked for by itself is asked at once.

    Args:
        ask_about: Asks about some keys; a key without an answer is left out.
        interval_seconds: Between two questions.
        clock: Seconds from some fixed moment; a test injects its own.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        ask_about: Callable[[Collection[K]], Mapping[K, V]],
        interval_seconds: float = 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ask_about = ask_about
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._sleep = sleep
        self._asked = float("-inf")
        self._adding = threading.Lock()
        self._asking = threading.Lock()
        self._next: _Batch[K, V] = _Batch()

    def ask(self, keys: Iterable[K]) -> dict[K, V]:
        """The answers about some keys; what `ask_about` raises is raised to everybody it was asked for."""
        with self._adding:
            batch = self._next
            batch.keys.update(wanted := set(keys))
        with self._asking:
            if batch.answers is None and batch.error is None:
                self._sleep(max(0.0, self._asked + self._interval_seconds - self._clock()))
                with self._adding:
                    self._next = _Batch()
                try:
                    batch.answers = self._ask_about(batch.keys)
                except Exception as error:  # noqa: BLE001 - raised below, by every thread that waits for it
                    batch.error = error
                self._asked = self._clock()
        if batch.answers is None:
            raise batch.error or AssertionError("a question without an outcome")
        return {key: batch.answers[key] for key in wanted if key in batch.answers}
