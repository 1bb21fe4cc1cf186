"""One question for all threads that have it at the same time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.waiting import eventually

from dagster_slurm.transport.together import Gathered

THREADS = 20


class Asked:
    """What is asked for; the first question waits until `go_on` is set."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.error: Exception | None = None

    def __call__(self, questions: Sequence[int]) -> list[str]:
        self.batches.append(list(questions))
        self.begun.set()
        assert self.go_on.wait(20)
        if self.error is not None:
            raise self.error
        return [f"answer {question}" for question in questions]


def waiting_behind_the_first(asked: Asked, gathered: Gathered[int, str]) -> list[str | Exception]:
    def ask(question: int) -> str | Exception:
        try:
            return gathered.ask(question)
        except ConnectionError as error:
            return error

    with ThreadPoolExecutor(THREADS) as threads:
        first = threads.submit(ask, 0)
        assert asked.begun.wait(20)
        others = [threads.submit(ask, question) for question in range(1, THREADS)]
        eventually(lambda: len(gathered._waiting) == THREADS - 1)
        asked.go_on.set()
        return [first.result(), *(other.result() for other in others)]


@pytest.mark.parametrize(("most", "batches"), [(THREADS, [1, 19]), (8, [1, 8, 8, 3])])
def test_few_questions_for_twenty_threads(most: int, batches: list[int]) -> None:
    asked = Asked()
    answers = waiting_behind_the_first(asked, Gathered(asked, most=most))
    assert answers == [f"answer {question}" for question in range(THREADS)]
    assert [len(batch) for batch in asked.batches] == batches
    assert sorted(question for batch in asked.batches for question in batch) == list(range(THREADS))


def test_who_comes_later_is_not_answered_by_what_was_asked_before() -> None:
    asked = Asked()
    asked.go_on.set()
    gathered = Gathered(asked, most=THREADS)
    for _ in range(3):
        assert gathered.ask(7) == "answer 7"
    assert asked.batches == [[7]] * 3


def test_an_error_is_everybodys_and_the_next_question_is_asked() -> None:
    asked = Asked()
    asked.error = ConnectionError("database away")
    gathered = Gathered(asked, most=THREADS)
    assert waiting_behind_the_first(asked, gathered) == [asked.error] * THREADS
    asked.error = None
    assert gathered.ask(1) == "answer 1"
