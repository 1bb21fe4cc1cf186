"""The sample of `make test`: small, always the same, and nothing on the axis is forgotten."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from tests.support.sampled import Cell, sample

TABLES = st.sets(st.tuples(st.integers(0, 20), st.integers(0, 9)), min_size=1)


def cells_of(table: set[tuple[int, int]]) -> list[Cell]:
    return [Cell(f"test_{test}[{value}]", test, value) for test, value in table]


@given(TABLES, st.integers(1, 5))
def test_a_share_of_each_test_and_every_value(table: set[tuple[int, int]], share: int) -> None:
    cells = cells_of(table)
    taken = [cell for cell in cells if cell.name in sample(cells, share)]
    assert {cell.value for cell in taken} == {cell.value for cell in cells}
    of_all, of_taken = Counter(cell.test for cell in cells), Counter(cell.test for cell in taken)
    assert all(of_taken[test] >= math.ceil(number / share) for test, number in of_all.items())
    # What is more than the share stands for a value that would be missing.
    more = sum(of_taken[test] - math.ceil(number / share) for test, number in of_all.items())
    assert more < len({cell.value for cell in cells})


@given(st.permutations(sorted((test, value) for test in range(5) for value in range(6))))
def test_the_order_does_not_matter(table: list[tuple[int, int]]) -> None:
    cells = [Cell(f"test_{test}[{value}]", test, value) for test, value in table]
    names = sample(cells, 3)
    assert names == sample(sorted(cells, key=lambda cell: cell.name), 3)
    assert 10 <= len(names) < 16
    assert len({name.partition("[")[2] for name in names}) > 3, "others for each test"
