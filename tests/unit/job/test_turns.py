"""How often may be asked: what must hold whatever the processes do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.job.questions import Account, Rules

RULES = Rules(per_second=1.0, burst=3.0, patience_seconds=10.0)


def test_the_burst_and_then_one_a_second() -> None:
    account, granted = Account(RULES.burst, 100.0), []
    for tenth in range(60):
        asked = account.asked(100.0 + tenth / 10, RULES)
        if asked is not None:
            granted.append(tenth)
            account = asked
    assert granted[:3] == [0, 1, 2]
    assert len(granted) == 8


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200), st.floats(0.1, 3.0), st.floats(1.0, 5.0))
def test_never_more_than_the_rate_in_any_span(pauses: list[float], per_second: float, burst: float) -> None:
    rules = Rules(per_second, burst)
    now, account, granted = 0.0, Account(burst, 0.0), []
    for pause in pauses:
        now += pause
        asked = account.asked(now, rules)
        if asked is not None:
            granted.append(now)
            account = asked
    for first in range(len(granted)):
        for last in range(first, len(granted)):
            assert last - first + 1 <= burst + (granted[last] - granted[first]) * per_second + 1e-6


@given(st.floats(0, 1e6), st.floats(1.1, 100))
def test_after_a_pause_somebody_may_always_ask(asked: float, pause: float) -> None:
    assert Account(0.0, asked).asked(asked + pause, RULES) is not None


def test_counting_stops_at_the_burst() -> None:
    assert Account(0.0, 0.0).asked(1e6, RULES) == Account(RULES.burst - 1.0, 1e6)
