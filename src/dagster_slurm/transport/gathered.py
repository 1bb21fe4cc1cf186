"""Questions of threads that come at the same time, answered together.

While some are being answered, those that come meanwhile wait, and then go together. So a single thread waits for
nobody, and a hundred threads need a dozen round trips and one channel.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dagster_slurm.errors import DagsterSlurmError

Q = TypeVar("Q")
A = TypeVar("A")

# Each round trip starts some ten processes there, however many questions it carries. Who was not alone the last time
# waits for company, the longer the more it was; a single thread never does.
_GATHERING_SECONDS_EACH = 0.01
_GATHERING_MAX_SECONDS = 0.1


@dataclass
class _Asked(Generic[Q, A]):
    """A question, and what came of it."""

    question: Q
    answer: A | None = None
    error: BaseException | None = None
    leads: bool = False
    woken: threading.Event = field(default_factory=threading.Event)


class Gathered(Generic[Q, A]):
    """Passes on questions, several at once where several threads ask.

    Args:
        serve: Answers some, in their order. An error is everybody's.
        most: How many at once.
    """

    def __init__(self, serve: Callable[[Sequence[Q]], Sequence[A]], *, most: int) -> None:
        self._serve = serve
        self._most = most
        self._waiting: list[_Asked[Q, A]] = []
        self._is_led = False
        self._last_count = 1
        self._lock = threading.Lock()

    def ask(self, question: Q) -> A:
        """The answer to a question."""
        asked: _Asked[Q, A] = _Asked(question)
        with self._lock:
            self._waiting.append(asked)
            asked.leads, self._is_led = not self._is_led, True
        if not asked.leads:
            asked.woken.wait()
        if asked.leads:
            self._lead(asked)
        if asked.error is not None:
            raise asked.error
        if asked.answer is None:
            raise AssertionError("a question without an outcome")
        return asked.answer

    def _lead(self, own: _Asked[Q, A]) -> None:
        """Serve this thread's question with those in front of it and behind it; then let another lead."""
        try:
            while own.answer is None and own.error is None:
                batch = self._next_batch()
                self._answer(batch)
                for asked in batch:
                    asked.woken.set()
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._is_led = following is not None
                if following is not None:
                    following.leads = True
                    following.woken.set()

    def _next_batch(self) -> list[_Asked[Q, A]]:
        if self._last_count > 1 and len(self._waiting) < self._most:
            time.sleep(min(_GATHERING_SECONDS_EACH * self._last_count, _GATHERING_MAX_SECONDS))
        with self._lock:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        self._last_count = len(batch)
        return batch

    def _answer(self, batch: Sequence[_Asked[Q, A]]) -> None:
        try:
            answers = self._serve([asked.question for asked in batch])
            for asked, answer in zip(batch, answers, strict=True):
                asked.answer = answer
        except BaseException as error:  # noqa: BLE001 - raised again by each thread that waits
            for asked in batch:
                if asked.answer is None:
                    # Each thread adds its own traceback, and may add what it knows.
                    asked.error = copy.copy(error) if isinstance(error, DagsterSlurmError) else error
