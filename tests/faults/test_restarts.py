"""SIGTERM, as a restart sends it, with the seed's `run_retries` and a real daemon."""

from __future__ import annotations

import random
import signal

import pytest

from ..support.waiting import at_the_same_time
from .conftest import Record
from .deployment import Deployment, send
from .figures import NOTHING_LEFT, SUCCESS, Figures
from .moments import random_moments, wait_for_moment
from .project.plan import Plan, trial_name
from .world import ALL

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
EXECUTORS = ("in_process", "multiprocess")


def test_sigterm(deployment: Deployment, chance: random.Random, record: Record) -> None:
    def trial(case: tuple[str, float]) -> Figures:
        executor, moment = case
        plan = Plan(trial_name("sigterm", executor, f"{moment:.2f}s"))
        run = deployment.launch(f"plain_{executor}", plan)
        worker = deployment.worker(run)
        wait_for_moment(deployment, run, moment)
        send(worker, signal.SIGTERM)
        deployment.wait_for_the_end(plan)
        return deployment.figures(plan)

    moments = random_moments(chance, 10 if ALL else 1, payload_seconds=6.0)
    figures = at_the_same_time(trial, [(executor, moment) for executor in EXECUTORS for moment in moments])
    ends = (SUCCESS, NOTHING_LEFT)
    record("sigterm-in-process", figures[: len(moments)], ends=ends)
    record("sigterm-multiprocess", figures[len(moments) :], ends=ends)
