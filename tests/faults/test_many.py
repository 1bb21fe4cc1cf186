"""Many pieces of work at once never see each other's jobs; and one piece of work launched twice has one job."""

from __future__ import annotations

import signal

import pytest
from dagster import DagsterEventType

from ..support.waiting import at_the_same_time, eventually
from .conftest import Record
from .deployment import Deployment, send
from .figures import Figures
from .project.plan import PARTITIONS, Plan, trial_name
from .world import ALL

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.mark.all_faults
def test_each_partition_reattaches_to_its_own(deployment: Deployment, record: Record) -> None:
    partitions = PARTITIONS[: 20 if ALL else 3]
    plan = Plan("partitions", hold=True)
    deployment.backfill("parts_in_process", partitions, plan)
    for partition in partitions:
        deployment.started(plan, partition)
    for partition in partitions:
        send(deployment.worker(deployment.run_of(plan, partition)), signal.SIGKILL)
    at_the_same_time(lambda partition: retry(deployment, plan, partition), partitions)
    deployment.let_go(plan)
    for partition in partitions:
        deployment.wait_for_the_end(plan, partition)
    record("partitions", [deployment.figures(plan, partition) for partition in partitions])


def retry(deployment: Deployment, plan: Plan, partition: str) -> None:
    """By the daemon; by hand where it was too late: Dagster does not retry runs of a backfill whose runs all ended."""
    (killed,) = deployment.runs_of(plan, partition)[:1]

    def decided() -> bool:
        too_late = any("part of a backfill that is in a terminal" in text for text in deployment.messages(killed))
        retried = len(deployment.runs_of(plan, partition)) > 1
        return too_late or retried or deployment.overlooked(plan, partition) is not None

    eventually(decided, f"the daemon's decision on {partition}")
    if len(deployment.runs_of(plan, partition)) == 1:
        deployment.reexecute_from_failure(killed)
    retried = deployment.runs_of(plan, partition)[-1]
    deployment.event(retried, DagsterEventType.STEP_START, seconds=180.0)


@pytest.mark.all_faults
def test_two_processes_launch_one_key(deployment: Deployment, record: Record) -> None:
    """Two re-executions from failure of one run, launched at the same time, are the same piece of work."""

    def trial(number: int) -> list[Figures]:
        plan = Plan(trial_name("twice", number), lines=80, hold=True, die="before:submit")
        run = deployment.launch("plain_in_process", plan, tags={"dagster/max_retries": "0"})
        deployment.wait_for_the_end(plan)
        assert deployment.died(plan)
        at_the_same_time(lambda _: deployment.reexecute_from_failure(run), range(2))
        for each in deployment.runs_of(plan)[1:]:
            deployment.event(each, DagsterEventType.STEP_START, seconds=180.0)
        deployment.let_go(plan)
        eventually(lambda: all(each.is_finished for each in deployment.runs_of(plan)), f"both runs of {plan.name}")
        return [deployment.figures(plan, ending=each) for each in deployment.runs_of(plan)[1:]]

    pairs = at_the_same_time(trial, range(5 if ALL else 1))
    assert all(len(pair) == 2 for pair in pairs)
    record("two-launch-one-key", [figures for pair in pairs for figures in pair])
