"""`kill -9` of the multiprocess executor's child, in an asset with a RetryPolicy: the next child reattaches."""

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
from .world import ALL

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
JOB = "retried_multiprocess"
# A child that dies after its step's success fails the run: Dagster finds the step not to be in flight any more.
ENDS = (SUCCESS, NOTHING_LEFT)


def killed_at(deployment: Deployment, plan: Plan, moment: float) -> Figures:
    run = deployment.launch(JOB, plan)
    child = deployment.child(run)
    wait_for_moment(deployment, run, moment)
    send(child, signal.SIGKILL)
    deployment.wait_for_the_end(plan)
    return deployment.figures(plan)


def dying(deployment: Deployment, job: str, plan: Plan) -> Figures:
    """The process kills itself where the plan says."""
    deployment.launch(job, plan)
    deployment.wait_for_the_end(plan)
    assert deployment.died(plan), f"no process died {plan.die}"
    return deployment.figures(plan)


@pytest.mark.all_faults
def test_at_random_moments(deployment: Deployment, chance: random.Random, record: Record) -> None:
    def trial(numbered: tuple[int, float]) -> Figures:
        number, moment = numbered
        return killed_at(deployment, Plan(trial_name("child", number, f"{moment:.2f}s")), moment)

    moments = random_moments(chance, 50 if ALL else 1, payload_seconds=6.0)
    record("child-random", at_the_same_time(trial, enumerate(moments)), ends=ENDS)


@pytest.mark.all_faults
def test_at_each_remote_step(deployment: Deployment, points: list[str], chance: random.Random, record: Record) -> None:
    def trial(numbered: tuple[int, str]) -> Figures:
        number, point = numbered
        return dying(deployment, JOB, Plan(trial_name("child", number, point), lines=20, die=point))

    chosen = sample(chance, points, None if ALL else 1)
    record("child-steps", at_the_same_time(trial, enumerate(chosen)), ends=ENDS)
