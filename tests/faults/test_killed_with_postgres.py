"""`kill -9` of a child, a run worker, or everything, where Dagster's records are in PostgreSQL: as with SQLite."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dagster_slurm.sandbox import Sandbox

from ..support.postgres import Server, storage_at
from ..support.waiting import at_the_same_time
from . import test_killed_child, test_killed_worker
from .conftest import Record
from .deployment import Deployment
from .figures import NOTHING_LEFT, SUCCESS, Figures
from .project.plan import Plan
from .test_everything_killed import dying_with_everything, one_round
from .test_killed_child import dying
from .world import World

pytestmark = [pytest.mark.cluster, pytest.mark.all_faults, pytest.mark.timeout(900)]
# Seconds after the start of the step, in which the job runs.
MOMENT = 4.0


def test_each_way_to_be_killed(
    sandbox: Sandbox, tmp_path: Path, postgres_server: Server, chance: random.Random, record: Record
) -> None:
    def storage() -> Mapping[str, object]:
        return storage_at(postgres_server.empty_storage())

    mortal = Deployment(sandbox, tmp_path / "mortal", storage=storage())
    alone = World(sandbox, tmp_path / "alone", storage=storage())
    ways: list[Callable[[], Figures]] = [
        lambda: test_killed_child.killed_at(mortal, Plan("child"), MOMENT),
        lambda: dying(mortal, test_killed_child.JOB, Plan("child-dies", lines=20, die="before:record")),
        lambda: test_killed_worker.killed_at(mortal, "in_process", Plan("worker"), MOMENT),
        lambda: test_killed_worker.killed_at(mortal, "multiprocess", Plan("worker-of-child"), MOMENT),
        lambda: dying(mortal, "plain_in_process", Plan("worker-dies", lines=20, die="after:record")),
        lambda: dying_with_everything(alone, 0, "after:submit"),
    ]
    try:
        mortal.up()
        trials = at_the_same_time(lambda way: way(), ways, most=3)
        mortal.kill_everything()
        reconciled, reexecuted = one_round(mortal, chance, 0)
    finally:
        mortal.close()
        alone.close()
    assert reconciled, "no run was there to be reconciled"
    assert reexecuted, "no run was there to be executed again"
    record("killed-with-postgres", [*trials, *reconciled, *reexecuted], ends=(SUCCESS, NOTHING_LEFT))
