"""What pairs of runs come to: medians of ratios, the least counts, and limits that are kept or broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The benchmarks are programs, which import what lies beside them.
sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import against
import common
from against import Case, Figure, Measured

COUNTS = {"logins": 1, "channels": 3, "submissions": 1, "RPCs": 5, "round trips": 8}
ASKED = {"submit": 1, "poll": 20}


def run(wall: float, cpu: float = 1.0, **counts: int) -> Measured:
    return Measured(wall, cpu, {**COUNTS, **counts}, ASKED)


def figure(pairs: list[tuple[Measured, Measured]], name: str) -> Figure:
    (found,) = [each for each in against.figures(pairs) if each.name == name]
    return found


def broken(pairs: list[tuple[Measured, Measured]]) -> list[str]:
    return [each.name for each in against.figures(pairs) if not each.is_kept]


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    """Not that of the medians: what slows the machine down slows down both of a pair."""
    pairs = [(run(10.0), run(10.2)), (run(20.0), run(20.4)), (run(10.0), run(30.0))]
    found = figure(pairs, "wall, s")
    assert (found.other, found.this, found.value) == (10.0, 20.4, pytest.approx(1.02))
    assert found.is_kept


@pytest.mark.parametrize(
    ("this", "expected"),
    [
        (run(10.5), []),
        (run(10.6), ["wall, s"]),
        (run(10.0, 1.1), []),
        (run(10.0, 1.2), ["cpu, s"]),
        (run(10.0, logins=2), ["logins"]),
        (run(10.0, RPCs=4), []),
        (Measured(10.0, 1.0, {**COUNTS, "round trips": 9}, {**ASKED, "poll": 99}), ["round trips"]),
    ],
    ids=["wall", "wall over", "CPU", "CPU over", "logins over", "less RPCs", "round trips over"],
)
def test_limits(this: Measured, expected: list[str]) -> None:
    assert broken([(run(10.0), this)] * 3) == expected


def test_of_counts_the_least_is_compared() -> None:
    pairs = [(run(10.0, RPCs=7), run(10.0, RPCs=9)), (run(10.0, RPCs=5), run(10.0, RPCs=5))]
    assert (figure(pairs, "RPCs").other, figure(pairs, "RPCs").this) == (5, 5)
    assert broken(pairs) == []


def test_what_is_asked_is_shown_without_a_limit() -> None:
    pairs = [(run(10.0), Measured(10.0, 1.0, COUNTS, {"look": 4}))]
    found = figure(pairs, "- look")
    assert (found.other, found.this, found.most) == (0, 4, None)


def test_cases_and_their_sizes() -> None:
    assert [case.key for case in common.cases_of([], against.CASES)] == ["one", "at_once", "partitions"]
    assert common.cases_of(["at_once=10"], against.CASES) == [Case("at_once", "threaded.py", 10, 10)]
    with pytest.raises(ValueError, match="there is no case 'two'"):
        common.cases_of(["two"], against.CASES)


def test_what_is_over_its_limit_is_said() -> None:
    case = against.CASES[0]
    assert against.row(case, Figure("wall, s", 10.0, 12.0, 1.2, 1.05)) == [
        *("one=1", "wall, s", "10", "12", "1.200", "1.05", "**over**")
    ]
    assert against.row(case, Figure("logins", 1, 1, 1, 1))[-3:] == ["", "at most as many", ""]
