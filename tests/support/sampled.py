"""Which cells of a large table of tests `make test` runs; `make faults` runs all.

Whole files are run on every way to log in, for every kind of work, for every kind of environment. Each test is about
one thing and each way about another, and few faults lie in what only a single pair of them does. So of each test, a
share of the ways is taken, by a checksum of the test's name: always the same ones, others for each test, and every way
somewhere in the file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from zlib import crc32

import pytest

MARKER = "sampled"


@dataclass(frozen=True)
class Cell:
    """One test with one value on the axis.

    Args:
        name: Of the whole, different for each.
        test: What all its cells have in common.
        value: On the axis.
    """

    name: str
    test: Hashable
    value: Hashable


def sample(cells: Iterable[Cell], share: int) -> set[str]:
    """The names of those that are run: one in `share` of each test's, rounded up, and each value once at least."""
    of_test: dict[Hashable, list[Cell]] = defaultdict(list)
    for cell in sorted(cells, key=lambda each: crc32(each.name.encode())):
        of_test[cell.test].append(cell)
    taken = [cell for found in of_test.values() for cell in found[: -(-len(found) // share)]]
    values = {cell.value for cell in taken}
    for cell in (cell for found in of_test.values() for cell in found):
        if cell.value not in values:
            values.add(cell.value)
            taken.append(cell)
    return {cell.name for cell in taken}


def left_out(items: Iterable[pytest.Item]) -> set[str]:
    """The node ids of marked tests that only `make faults` runs: `sampled(AXIS, share=N)` on a file or a class."""
    tables: dict[tuple[str, str, int], list[Cell]] = defaultdict(list)
    for item in items:
        marker = item.get_closest_marker(MARKER)
        if marker is None or not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        axis = marker.args[0]
        # Cells have the very same objects in common: not every value can be hashed.
        values = {name: id(value) for name, value in item.callspec.params.items()}
        if axis in values:
            value = values.pop(axis)
            test = (item.cls, item.originalname, *sorted(values.items()))
            tables[str(item.path), axis, marker.kwargs["share"]].append(Cell(item.nodeid, test, value))
    left: set[str] = set()
    for (_, _, share), cells in tables.items():
        left |= {cell.name for cell in cells} - sample(cells, share)
    return left
