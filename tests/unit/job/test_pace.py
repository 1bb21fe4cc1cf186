"""Pauses grow while nothing happens, and are short again when something does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.job.backoff import Pace


def pauses(pace: Pace, count: int) -> list[float]:
    now, seen = 0.0, []
    for _ in range(count):
        pace.asked(now)
        seen.append(pace.due - now)
        now = pace.due
    return seen


def test_pauses_grow_to_the_limit() -> None:
    assert pauses(Pace(1.0, 5.0, factor=2.0), 5) == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_it_is_due_at_first_and_then_after_its_pause() -> None:
    pace = Pace(2.0, 9.0)
    assert pace.is_due(0.0)
    pace.asked(10.0)
    assert [pace.is_due(now) for now in (10.0, 11.9, 12.0, 13.0)] == [False, False, True, True]


def test_restart_is_due_at_once_with_short_pauses() -> None:
    pace = Pace(1.0, 100.0, factor=10.0)
    pauses(pace, 3)
    pace.restart(50.0)
    assert pace.is_due(50.0)
    pace.asked(50.0)
    assert pace.due == 51.0


def test_hurry_brings_the_next_time_forward_and_never_back() -> None:
    pace = Pace(1.0, 100.0, factor=10.0)
    pauses(pace, 3)
    pace.hurry(50.0)
    assert pace.due == 51.0
    pace.hurry(50.5)
    assert pace.due == 51.0


def test_a_limit_below_the_first_pause_wins() -> None:
    assert pauses(Pace(5.0, 2.0), 2) == [2.0, 2.0]


@given(st.floats(0.01, 10), st.floats(0.01, 100), st.floats(1, 5), st.floats(0, 0.5))
def test_every_pause_stays_within_limit_and_jitter(first: float, limit: float, factor: float, jitter: float) -> None:
    seen = pauses(Pace(first, limit, factor, jitter), 20)
    assert all(min(first, limit) * (1 - jitter) * 0.999 <= pause <= limit * (1 + jitter) * 1.001 for pause in seen)


def test_jitter_differs() -> None:
    assert len({tuple(pauses(Pace(1.0, 5.0, jitter=0.2), 3)) for _ in range(5)}) > 1


@given(st.floats(0.1, 60.0), st.floats(1.0, 3.0), st.integers(1, 12))
def test_pauses_by_age_are_those_by_count(first_seconds: float, factor: float, count: int) -> None:
    limit = first_seconds * 50
    by_age = pauses(Pace(first_seconds, limit, factor, since=0.0), count)
    assert by_age == pytest.approx(pauses(Pace(first_seconds, limit, factor), count))


def test_pauses_by_age_do_not_grow_by_what_others_ask() -> None:
    pace = Pace(5.0, 30.0, since=0.0)
    for now in (0.0, 0.1, 0.2, 0.3):
        pace.asked(now)
    assert pace.due == pytest.approx(0.3 + 5.15)
