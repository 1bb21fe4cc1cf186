"""Which environments are pruned: a table."""

from __future__ import annotations

import pytest

from dagster_slurm.environments.inventory import Entry, Inventory, Standing, parse
from dagster_slurm.housekeeping.environments import PruneTerms, judge

DAY = 86400
NOW = 1_000 * DAY
LISTED = """now 86400000
entry 0a.11 current 86300000 1048576 {"title": "the uv project tides", "platform": "linux-64"}
entry 0b.22 partial 86200000 0 {}
entry 0c.33 deployed 86100000 2048 not json
parts 3 4096
"""


def entry(name: str, days: float, standing: Standing = Standing.CURRENT, size_bytes: int = 10) -> Entry:
    return Entry(name, f"/cache/{name}", standing, int(NOW - days * DAY), size_bytes)


def test_the_listing() -> None:
    found = parse(LISTED, "/cache")
    assert (found.now_epoch, found.parts, found.parts_bytes) == (86400000, 3, 4096)
    assert [each.standing for each in found.entries] == [Standing.CURRENT, Standing.PARTIAL, Standing.DEPLOYED]
    assert found.entries[0] == Entry(
        "0a.11", "/cache/0a.11", Standing.CURRENT, 86300000, 1048576, "the uv project tides", "linux-64"
    )
    assert found.entries[2].title == ""


@pytest.mark.parametrize(
    ("one", "terms", "removed", "reason"),
    [
        (entry("a", 31), PruneTerms(30 * DAY), True, "it was not used for 31 days"),
        (entry("a", 29), PruneTerms(30 * DAY), False, "it was used lately"),
        (entry("a", 0.01), PruneTerms(0), False, "it was used within the hour"),
        (entry("a", 0.01, Standing.SUPERSEDED), PruneTerms(0), False, "it was used within the hour"),
        (entry("a", 0.1, Standing.SUPERSEDED), PruneTerms(30 * DAY), True, "another one was pushed in its place"),
        (entry("a", 99, Standing.DEPLOYED), PruneTerms(30 * DAY), False, "it was deployed; --deployed prunes it"),
        (entry("a", 99, Standing.DEPLOYED), PruneTerms(30 * DAY, deployed=True), True, "it was not used for 99 days"),
        (entry("a", 0.5, Standing.PARTIAL), PruneTerms(0), False, "it may be being installed"),
        (entry("a", 2, Standing.PARTIAL), PruneTerms(30 * DAY), True, "its installation has died"),
        (entry("used", 99), PruneTerms(0), False, "a job runs in it, or may"),
        (entry("used", 99, Standing.SUPERSEDED), PruneTerms(0), False, "a job runs in it, or may"),
    ],
)
def test_one(one: Entry, terms: PruneTerms, removed: bool, reason: str) -> None:
    (verdict,) = judge(Inventory(NOW, (one,)), {"/cache/used"}, terms)
    assert (verdict.removed, verdict.reason) == (removed, reason)


def test_by_size_the_longest_unused_goes_first() -> None:
    found = Inventory(NOW, (entry("new", 1), entry("old", 9), entry("middle", 5)))
    verdicts = judge(found, set(), PruneTerms(30 * DAY, max_bytes=20))
    assert [(each.entry.name, each.removed) for each in verdicts] == [("old", True), ("middle", False), ("new", False)]
