"""SubmissionTurns to submit, against a clock that is set by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from dagster_slurm.job.connection import SubmissionTurns


def test_so_many_a_second() -> None:
    turns = SubmissionTurns(4.0, now=lambda: 100.0)
    assert [turns.take() for _ in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_without_a_limit_each_is_at_once() -> None:
    turns = SubmissionTurns(now=lambda: 100.0)
    assert [turns.take() for _ in range(100)] == [0.0] * 100


def test_what_was_not_used_is_not_saved_up() -> None:
    clock = [0.0]
    turns = SubmissionTurns(2.0, now=lambda: clock[0])
    turns.take()
    clock[0] = 60.0
    assert [turns.take() for _ in range(3)] == [0.0, 0.5, 1.0]


def test_threads_get_turns_of_their_own() -> None:
    turns = SubmissionTurns(10.0, now=lambda: 0.0)
    with ThreadPoolExecutor(8) as threads:
        pauses = sorted(threads.map(lambda _: turns.take(), range(100)))
    assert pauses == pytest.approx([n / 10 for n in range(100)])
