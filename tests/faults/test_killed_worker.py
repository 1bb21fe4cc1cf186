"""`kill -9` of the run worker: the code server notices, the run fails, the daemon's retry reattaches."""

from __future__ import annotations

import random
import signal

import pytest

from ..support.waiting import at_the_same_time
from .conftest import Record
from .deployment import Deployment, send
from .figures import NOTHING_LEFT, SUCCESS, Figures
from .moments import random_moments, sample, wait_for_moment
from .project.plan import Plan, trial_name
from .test_killed_child import dying
from .world import ALL

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
EXECUTORS = ("in_process", "multiprocess")


def killed_at(deployment: Deployment, executor: str, plan: Plan, moment: float) -> Figures:
    run = deployment.launch(f"plain_{executor}", plan)
    worker = deployment.worker(run)
    wait_for_moment(deployment, run, moment)
    send(worker, signal.SIGKILL)
    deployment.wait_for_the_end(plan)
    return deployment.figures(plan)


@pytest.mark.all_faults
def test_at_random_moments(deployment: Deployment, chance: random.Random, record: Record) -> None:
    def trial(case: tuple[str, float]) -> Figures:
        executor, moment = case
        return killed_at(deployment, executor, Plan(trial_name("worker", executor, f"{moment:.2f}s")), moment)

    moments = random_moments(chance, 50 if ALL else 1, payload_seconds=6.0)
    figures = at_the_same_time(trial, [(executor, moment) for executor in EXECUTORS for moment in moments])
    ends = (SUCCESS, NOTHING_LEFT)
    record("worker-in-process-random", figures[: len(moments)], ends=ends)
    record("worker-multiprocess-random", figures[len(moments) :], ends=ends)


@pytest.mark.all_faults
def test_at_each_remote_step(deployment: Deployment, points: list[str], chance: random.Random, record: Record) -> None:
    def trial(numbered: tuple[int, str]) -> Figures:
        number, point = numbered
        return dying(deployment, "plain_in_process", Plan(trial_name("worker", number, point), lines=20, die=point))

    chosen = sample(chance, points, None if ALL else 1)
    record("worker-steps", at_the_same_time(trial, enumerate(chosen)), ends=(SUCCESS, NOTHING_LEFT))
