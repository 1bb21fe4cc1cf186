"""A cluster to break, Dagster deployments to kill, and the table of what came of it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dagster_slurm.sandbox import Sandbox

from . import settings_page, table
from .deployment import Deployment
from .figures import Figures, summary
from .project.plan import Plan
from .rows import LINES
from .world import ALL, World

SEED = int(os.environ.get("FAULTS_SEED", "4"))
FIGURES = Path(os.environ["FAULTS_FIGURES"]) if "FAULTS_FIGURES" in os.environ else None

Record = Callable[..., None]


@pytest.fixture(scope="session")
def deployment(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A `dagster dev` that stays up: its runs are killed, it is not."""
    world = Deployment(sandbox, tmp_path_factory.mktemp("deployment"))
    try:
        world.up()
        yield world
    finally:
        world.close()


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> Iterator[World]:
    """A DAGSTER_HOME without any daemon."""
    made = World(sandbox, tmp_path / "world")
    yield made
    made.close()


@pytest.fixture(scope="session")
def points(deployment: Deployment) -> list[str]:
    """Right before and right after each remote step, as an undisturbed run takes them."""
    plan = Plan("undisturbed", lines=10)
    deployment.launch("plain_in_process", plan)
    deployment.wait_for_the_end(plan)
    assert deployment.figures(plan).as_expected()
    return (deployment.notes / "undisturbed.steps").read_text().split("\n")[:-1]


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random moments, the same for the same seed; which it was, a failing test shows."""
    print(f"FAULTS_SEED={SEED}")
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def record() -> Record:
    """Notes the figures of a row, and fails if one of them is not what it should be."""

    def note(
        row: str,
        trials: Sequence[Figures],
        *,
        executed: int = 1,
        jobs: int | None = None,
        ends: Sequence[str] = ("SUCCESS",),
        lines: bool = True,
    ) -> None:
        assert row in LINES, f"rows.py does not have the row {row}"
        if FIGURES:
            # A file for each row: several processes record at once.
            (FIGURES / f"{row}.json").write_text(json.dumps(summary(trials).as_dict()), encoding="utf-8")
        wrong = [each for each in trials if not each.as_expected(executed=executed, jobs=jobs, ends=ends, lines=lines)]
        assert not wrong, f"{row}: {len(wrong)} of {len(trials)} trials are wrong: {wrong}"

    return note


def pytest_sessionfinish(exitstatus: int) -> None:
    """After a complete run of the suite, write the table."""
    if ALL and FIGURES and exitstatus == 0 and "PYTEST_XDIST_WORKER" not in os.environ:
        print(table.write(_read(FIGURES)))
        print(settings_page.write(_read(FIGURES / "settings")))


def _read(directory: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in directory.glob("*.json")}
