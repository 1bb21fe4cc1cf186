"""Which tests of the contract are run on which way to log in."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that `test_ways` leaves out."""
    chosen, others = [], []
    for item in items:
        (others if _is_left_out(item) else chosen).append(item)
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = chosen


def _is_left_out(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or item.path.name != "test_ways.py":
        return False
    from tests.contract.test_ways import TestTheWayItself, left_out

    way = item.callspec.params.get("way") if hasattr(item, "callspec") else None
    return item.cls is not TestTheWayItself and (way is None or left_out(item.originalname, way))
