"""Who may ask, and how often: what must hold whatever the processes do."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.job.turns import Account, Rules, begun, counted, ended, is_taken, read_account

RULES = Rules(per_second=1.0, burst=3.0, patience_seconds=10.0)
OPEN = Account.opened("era", 100.0, RULES)


def test_the_burst_and_then_one_a_second() -> None:
    account, granted = OPEN, []
    for tenth in range(60):
        now = 100.0 + tenth / 10
        taken = begun(account, "a", now=now, rules=RULES)
        if taken is not None:
            granted.append(tenth)
            account = ended(taken, "a")
    assert granted[:3] == [0, 1, 2]
    assert len(granted) == 8


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200), st.floats(0.1, 3.0), st.floats(1.0, 5.0))
def test_never_more_than_the_rate_in_any_span(pauses: list[float], per_second: float, burst: float) -> None:
    rules = Rules(per_second, burst)
    now, account, granted = 0.0, Account.opened("era", 0.0, rules), []
    for pause in pauses:
        now += pause
        taken = begun(account, "a", now=now, rules=rules)
        if taken is not None:
            granted.append(now)
            account = ended(taken, "a")
    for first in range(len(granted)):
        for last in range(first, len(granted)):
            assert last - first + 1 <= burst + (granted[last] - granted[first]) * per_second + 1e-6


@given(st.floats(0, 1e6), st.floats(1.1, 100))
def test_after_a_pause_somebody_may_always_ask(asked: float, pause: float) -> None:
    account = Account("era", 0.0, asked)
    assert begun(account, "a", now=asked + pause, rules=RULES) is not None


TAKEN = begun(OPEN, "a", now=100.0, rules=RULES)
assert TAKEN is not None


@pytest.mark.parametrize(
    ("account", "now", "lives", "expected"),
    [
        (OPEN, 100.0, False, False),
        (TAKEN, 100.5, True, True),
        (TAKEN, 100.5, False, False),
        (TAKEN, 109.9, True, True),
        (TAKEN, 110.0, True, False),
        (ended(TAKEN, "a"), 100.5, True, False),
    ],
    ids=["nobody asks", "somebody asks", "the asker is dead", "still asks", "is silent too long", "has asked"],
)
def test_who_is_waited_for(account: Account, now: float, lives: bool, expected: bool) -> None:
    assert is_taken(account, now=now, rules=RULES, asker_lives=lives) is expected


def test_who_was_taken_over_from_gives_nothing_back() -> None:
    taken_over = begun(TAKEN, "b", now=111.0, rules=RULES)
    assert taken_over is not None
    assert ended(taken_over, "a").asker == "b"


def test_an_account_is_read_as_it_was_written() -> None:
    assert read_account(TAKEN.to_json(), era="era", now=101.0, rules=RULES) == TAKEN


@pytest.mark.parametrize(
    "text",
    [
        "",
        TAKEN.to_json()[:-5],
        "[]",
        "null",
        json.dumps({"era": "era"}),
        Account("another boot", 0.0, 100.0, "b", 100.0).to_json(),
        Account("era", 0.0, 1e9, "b", 100.0).to_json(),
        Account("era", 0.0, 100.0, "b", 1e9).to_json(),
        Account("era", 1e9, 100.0).to_json(),
    ],
)
def test_what_is_no_account_of_this_boot_is_a_new_one(text: str) -> None:
    assert read_account(text, era="era", now=101.0, rules=RULES) == Account.opened("era", 101.0, RULES)


def test_counting_stops_at_the_burst() -> None:
    assert counted(Account("era", 0.0, 0.0), now=1e6, rules=RULES).left == RULES.burst
