"""One question for all threads that have it at the same time."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import pytest

from dagster_slurm.pipes.session import Gathered

THREADS = 20


class Asked:
    """What is asked for; the first question waits until `go_on` is set."""

    def __init__(self) -> None:
        self.questions: list[set[int]] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.error: Exception | None = None

    def __call__(self, keys: Collection[int]) -> dict[int, str]:
        self.questions.append(set(keys))
        self.begun.set()
        assert self.go_on.wait(20)
        if self.error is not None:
            raise self.error
        return {key: f"answer {key}" for key in keys if key >= 0}


def waiting_behind_the_first(asked: Asked, gathered: Gathered[int, str]) -> list[dict[int, str] | Exception]:
    def ask(key: int) -> dict[int, str] | Exception:
        try:
            return gathered.ask([key, -1])
        except ConnectionError as error:
            return error

    with ThreadPoolExecutor(THREADS) as threads:
        first = threads.submit(ask, 0)
        assert asked.begun.wait(20)
        others = [threads.submit(ask, key) for key in range(1, THREADS)]
        while len(gathered._next.keys) < THREADS:
            pass
        asked.go_on.set()
        return [first.result(), *(other.result() for other in others)]


def test_two_questions_for_twenty_threads() -> None:
    asked = Asked()
    answers = waiting_behind_the_first(asked, Gathered(asked))
    assert answers == [{key: f"answer {key}"} for key in range(THREADS)]
    assert asked.questions == [{0, -1}, {-1, *range(1, THREADS)}]


def test_who_comes_later_is_not_answered_by_what_was_asked_before() -> None:
    asked = Asked()
    asked.go_on.set()
    gathered = Gathered(asked)
    for _ in range(3):
        assert gathered.ask([7]) == {7: "answer 7"}
    assert asked.questions == [{7}] * 3


def test_an_error_is_everybodys_and_the_next_question_is_asked() -> None:
    asked = Asked()
    asked.error = ConnectionError("database away")
    gathered = Gathered(asked)
    assert waiting_behind_the_first(asked, gathered) == [asked.error] * THREADS
    asked.error = None
    assert gathered.ask([1]) == {1: "answer 1"}


def test_no_key_no_answer() -> None:
    asked = Asked()
    asked.go_on.set()
    with pytest.raises(KeyError):
        Gathered(asked).ask([-1])[-1]


def test_one_by_one_there_is_a_pause_between_two_questions() -> None:
    asked = Asked()
    asked.go_on.set()
    pauses: list[float] = []
    gathered = Gathered(asked, 0.2, clock=lambda: 1000.0, sleep=pauses.append)
    gathered.ask([1])
    gathered.ask([2])
    assert pauses == [0.0, pytest.approx(0.2)]
