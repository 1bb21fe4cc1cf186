"""How long clusters in a job take, as rounds are compared."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The benchmarks are programs, which import what lies beside them.
sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from launchers import Found, Times, is_kept, line, to_hand

HAND = [Times(10.0, 4.0), Times(20.0, 4.0), Times(40.0, 4.0)]


def found(*ours: Times | None) -> Found:
    return {"ours": ours, "by hand": HAND}


def test_rounds_are_compared_and_not_their_medians() -> None:
    # The machine got slower from round to round.
    assert to_hand(found(Times(11.0, 2.0), Times(22.0, 2.0), Times(36.0, 2.0)), "ours") == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("ours", "kept"),
    [
        ([Times(12.0, 5.0), Times(24.0, 5.0), Times(48.0, 5.0)], True),
        ([Times(12.1, 5.0), Times(24.2, 5.0), Times(48.4, 5.0)], False),
        ([Times(10.0, 5.1), Times(20.0, 5.1), Times(40.0, 1.0)], False),
        ([None, Times(20.0, 5.0), None], True),
        ([None, None, None], False),
    ],
)
def test_the_limits(ours: list[Times | None], kept: bool) -> None:
    assert is_kept(found(*ours)) is kept


def test_a_line_of_the_table() -> None:
    table = found(None, Times(22.0, 2.0), Times(36.0, 3.0))
    assert line(table, "ours") == ["ours", "29.0", "22.0 to 36.0", "1.00", "2.5", "2.0 to 3.0", "1"]
    assert line(found(None, None, None), "ours") == ["ours", "-", "-", "-", "-", "-", "3"]
