"""Which tests of the contract are run on which way to log in; and worlds for those of what carries work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .project import Kind
from .work import Make, World


@pytest.fixture(scope="module")
def make_world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes worlds that are ended with the last test of the module, or, with `close`, before."""
    worlds: list[World] = []

    def made(kind: Kind, *units: str) -> World:
        cluster = request.getfixturevalue("sandbox") if kind.is_on_slurm else None
        worlds.append(World(kind, tmp_path_factory.mktemp("world"), cluster, units))
        return worlds[-1]

    yield made
    for world in worlds:
        world.close()


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """The same for one test."""
    worlds: list[World] = []

    def made(kind: Kind, *units: str) -> World:
        cluster = request.getfixturevalue("sandbox") if kind.is_on_slurm else None
        worlds.append(World(kind, tmp_path / f"world-{len(worlds)}", cluster, units))
        return worlds[-1]

    yield made
    for world in worlds:
        world.close()


@pytest.hookimpl(tryfirst=True)  # before a sample is taken of what is left
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
