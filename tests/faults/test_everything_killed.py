"""`kill -9` of everything: run workers, their children, code server, daemon and webserver. Then a person comes back."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterEventType, DagsterRun

from dagster_slurm.sandbox import Sandbox

from ..support.waiting import at_the_same_time, eventually
from .conftest import Record
from .deployment import Deployment
from .figures import NOTHING_LEFT, SUCCESS, Figures
from .moments import OVERHEAD_SECONDS, random_moments, sample
from .project.plan import Plan, trial_name
from .world import ALL, MODULE, World

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
EXECUTORS = ("in_process", "multiprocess")


@pytest.fixture
def mortal(sandbox: Sandbox, tmp_path: Path) -> Iterator[Deployment]:
    """A `dagster dev` that is killed."""
    made = Deployment(sandbox, tmp_path / "mortal")
    yield made
    made.close()


def test_at_random_moments(mortal: Deployment, chance: random.Random, record: Record) -> None:
    """Several runs at once: one kill meets each of them at a moment of its own."""
    reconciled: list[Figures] = []
    reexecuted: list[Figures] = []
    # Of five runs, one is over when everything is killed, or about to be.
    for number in range(13 if ALL else 1):
        first, second = one_round(mortal, chance, number)
        reconciled += first
        reexecuted += second
    ends = (SUCCESS, NOTHING_LEFT)
    record("everything-reconcile", reconciled, ends=ends)
    record("everything-reexecution", reexecuted, ends=ends)


def one_round(mortal: Deployment, chance: random.Random, number: int) -> tuple[list[Figures], list[Figures]]:
    mortal.up()
    # Two that are in the middle, or of all moments.
    ages = random_moments(chance, 5, payload_seconds=12.0) if ALL else random_moments(chance, 2, payload_seconds=4.0)
    plans = [Plan(trial_name("everything", number, f"{age:.2f}s"), lines=80) for age in ages]
    launch_so_that_they_have_these_ages(mortal, plans, ages)
    mortal.kill_everything()
    orphans = [plan for plan in plans if not mortal.is_over(plan)]
    half = len(orphans) // 2
    at_the_same_time(lambda plan: reconcile(mortal, mortal.run_of(plan)), orphans[:half])
    mortal.up()
    for plan in orphans[half:]:
        mortal.mark_as_canceled(mortal.run_of(plan))
        if not mortal.events(mortal.run_of(plan), DagsterEventType.STEP_SUCCESS):
            mortal.reexecute_from_failure(mortal.run_of(plan))
    for plan in orphans:
        mortal.wait_for_the_end(plan)
    figures = [mortal.figures(plan) for plan in orphans]
    mortal.kill_everything()
    return figures[:half], figures[half:]


def launch_so_that_they_have_these_ages(mortal: Deployment, plans: list[Plan], ages: list[float]) -> None:
    """The oldest first; returns when the youngest has its age, counted from the start of its step."""
    oldest_first = sorted(zip(ages, plans, strict=True), key=lambda pair: -pair[0])
    begun = time.monotonic()
    for number, (age, plan) in enumerate(oldest_first):
        time.sleep(max(0.0, begun + oldest_first[0][0] - age - time.monotonic()))
        mortal.launch(f"plain_{EXECUTORS[number % 2]}", plan)
    age, youngest = oldest_first[-1]
    started = mortal.event(mortal.run_of(youngest), DagsterEventType.STEP_START).timestamp
    time.sleep(max(0.0, started + min(age, OVERHEAD_SECONDS) - time.time()))


def reconcile(world: World, run: DagsterRun) -> None:
    """What a person without a daemon types."""
    process = world.start(["dagster_slurm.cli", "reconcile", "--run", run.run_id, "-m", MODULE])
    assert process.wait(timeout=180.0) == 0, f"see {world.directory}"


def dying_with_everything(world: World, number: int, point: str) -> Figures:
    plan = Plan(trial_name("everything", number, point), lines=20, die=point, die_with_group=True)
    process = world.execute(f"plain_{EXECUTORS[number % 2]}", plan)
    process.wait(timeout=120.0)
    assert world.died(plan), f"no process died {point}"
    eventually(lambda: not world.is_over(plan), f"the death of {plan.name}")
    reconcile(world, world.run_of(plan))
    world.wait_for_the_end(plan)
    return world.figures(plan)


@pytest.mark.all_faults
def test_at_each_remote_step(world: World, points: list[str], chance: random.Random, record: Record) -> None:
    def trial(numbered: tuple[int, str]) -> Figures:
        return dying_with_everything(world, *numbered)

    chosen = sample(chance, points, None if ALL else 1)
    record("everything-steps", at_the_same_time(trial, enumerate(chosen), most=4), ends=(SUCCESS, NOTHING_LEFT))
