"""Which tests stay together on one of pytest-xdist's workers, and in which order groups are handed out.

Those that share a fixture of their module stay together, and those that share something costly of the session (a
`dagster dev`) too. Everything else that starts processes goes by itself, and quick tests go by file, which costs fewer
messages. Groups that took long the last time begin first, so that none is left over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

# Fixtures of the session that are too costly for each worker to have one.
COSTLY = ("deployment",)
SLOW_MARKERS = ("cluster", "process")


def group_of(item: pytest.Item) -> str | None:
    """The group of a test, which runs on one worker, one test after the other; None if it may go by itself."""
    file = item.nodeid.partition("::")[0].removeprefix("tests/").removesuffix(".py").replace("/", ".")
    shared = _shared_fixtures(item)
    for name in COSTLY:
        if name in shared:
            return name
    slow = any(item.get_closest_marker(name) for name in SLOW_MARKERS)
    return file if "module" in shared.values() or not slow else None


def mark_groups(items: Iterable[pytest.Item]) -> None:
    """Note each test's group for pytest-xdist, unless a marker of its own does."""
    for item in items:
        group = group_of(item)
        if group is not None and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))


def marked_group(item: pytest.Item) -> str:
    """The group under which a test is handed out: its marker's, or one by itself."""
    marker = item.get_closest_marker("xdist_group")
    return str(marker.args[0]) if marker is not None else item.nodeid


def _shared_fixtures(item: pytest.Item) -> Mapping[str, str]:
    """The fixtures of a test that live longer than it, and their scopes."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return {}
    scopes = {name: found[-1].scope for name, found in info.name2fixturedefs.items() if found}
    return {name: scope for name, scope in scopes.items() if scope != "function"}


def in_order(items: Iterable[pytest.Item], seconds: Mapping[str, float]) -> list[pytest.Item]:
    """Group by group, the longest first; within a group, and among short groups, as they came.

    Args:
        items: In the order that chance has given them.
        seconds: How long groups took the last time.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(marked_group(item), []).append(item)
    # Whole tens of seconds: what is about as long stays in the order of chance.
    longest_first = sorted(groups, key=lambda name: -(seconds.get(name, 0.0) // 10))
    return [item for name in longest_first for item in groups[name]]
