"""A run that is over `dagster/max_runtime`: Dagster's run monitoring terminates it, and its job is cancelled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from dagster_slurm.sandbox import Sandbox

from ..support.waiting import at_the_same_time, eventually
from .conftest import Record
from .deployment import Deployment
from .figures import Figures
from .project.plan import Plan, trial_name

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.all_faults, pytest.mark.any_storage]
EXECUTORS = ("in_process", "multiprocess")
# By Dagster's own rule such a run is retried, too, if `run_retries` are enabled.
TAGS = {"dagster/max_runtime": "10", "dagster/max_retries": "0"}


@pytest.fixture
def monitored(sandbox: Sandbox, tmp_path: Path, storage: Mapping[str, object]) -> Iterator[Deployment]:
    world = Deployment(sandbox, tmp_path / "monitored", monitored=True, storage=storage)
    try:
        world.up()
        yield world
    finally:
        world.close()


def test_over_its_maximum_runtime(monitored: Deployment, record: Record) -> None:
    def trial(executor: str) -> Figures:
        plan = Plan(trial_name("over-max-runtime", executor), lines=1000)
        monitored.launch(f"retried_{executor}", plan, tags=TAGS)
        eventually(lambda: list(monitored.jobs_of(plan).values()) == ["CANCELLED"], f"the job of {plan.name}")
        eventually(lambda: monitored.runs_of(plan)[-1].is_finished, f"the end of the run of {plan.name}")
        eventually(lambda: not monitored.figures(plan).missing, f"the lines of {plan.name}")
        assert monitored.bodies(plan) == len(monitored.runs_of(plan)) == 1
        return monitored.figures(plan)

    for executor, figures in zip(EXECUTORS, at_the_same_time(trial, EXECUTORS), strict=True):
        record(f"over-max-runtime-{executor}", [figures], ends=("FAILURE",), lines=False)
