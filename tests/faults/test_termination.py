"""A user terminates the run in Dagster: the job is cancelled, and nothing is retried into a new one."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster import DagsterRun

from ..support.waiting import eventually
from .conftest import Record
from .deployment import Deployment
from .figures import CANCELED
from .project.plan import Plan, trial_name

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
PHASES = ("uploading", "pending", "running", "completing")
# `make test` takes each phase with one of the executors.
SHORT = {
    ("uploading", "multiprocess"),
    ("pending", "in_process"),
    ("running", "multiprocess"),
    ("completing", "in_process"),
}
PAIRS = [
    pytest.param(phase, executor, marks=() if (phase, executor) in SHORT else pytest.mark.all_faults)
    for phase in PHASES
    for executor in ("in_process", "multiprocess")
]
UPLOAD_MB = 500
EXECUTED = {"uploading": 0, "pending": 0, "running": 1, "completing": 1}
# What is left of the job; one whose upload was broken off was never there.
STATES = {"uploading": [], "pending": ["CANCELLED"], "running": ["CANCELLED"], "completing": ["FAILED"]}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes some seconds to send."""
    path = tmp_path_factory.mktemp("large") / "large"
    with path.open("wb") as file:
        for _ in range(UPLOAD_MB):
            file.write(bytes(1000) * 1000)
    return path


@pytest.mark.parametrize(("phase", "executor"), PAIRS)
def test_terminated(deployment: Deployment, large: Path, record: Record, phase: str, executor: str) -> None:
    plan = plan_for(phase, executor, large)
    run = deployment.launch(f"retried_{executor}", plan)
    wait_for_phase(deployment, plan, run, phase)
    deployment.terminate(run)
    deployment.wait_for_the_end(plan)
    check_that_nothing_goes_on(deployment, plan, phase)
    record(f"terminated-{phase}-{executor}", [deployment.figures(plan)], executed=EXECUTED[phase], ends=(CANCELED,))


def plan_for(phase: str, executor: str, large: Path) -> Plan:
    name = trial_name("terminated", phase, executor)
    if phase == "uploading":
        return Plan(name, upload=str(large))
    if phase == "pending":
        return Plan(name, slurm={"begin": "now+1hour"})
    # A job that is running is to be cancelled in the middle. One that is completing has done its work, and not well: a
    # good end is the step's end, while its job may still be completing.
    return Plan(name, lines=400) if phase == "running" else Plan(name, lines=10, slow_end=True, exit_code=3)


def wait_for_phase(deployment: Deployment, plan: Plan, run: DagsterRun, phase: str) -> None:
    if phase == "uploading":
        directory = deployment.sandbox.home / "faults" / "runs" / "runs" / run.run_id
        eventually(lambda: arrived_bytes(directory) > 20_000_000, "an upload that is under way", pause_seconds=0.02)
        return
    if phase == "running":
        deployment.started(plan)
        return
    state = phase.upper()
    eventually(lambda: state in deployment.jobs_of(plan).values(), f"a job that is {phase}", pause_seconds=0.2)


def arrived_bytes(directory: Path) -> int:
    return sum(file.lstat().st_size for file in directory.rglob("*") if file.is_file())


def check_that_nothing_goes_on(deployment: Deployment, plan: Plan, phase: str) -> None:
    """Cancelled, or never there; and the asset's RetryPolicy has not run its body again."""
    assert len(deployment.runs_of(plan)) == 1
    assert deployment.bodies(plan) == 1, f"{plan.name}: the body was executed {deployment.bodies(plan)} times"
    # A job that was cancelled stays in COMPLETING until its node has cleaned up.
    eventually(lambda: "COMPLETING" not in deployment.jobs_of(plan).values(), f"the end of the job of {plan.name}")
    assert list(deployment.jobs_of(plan).values()) == STATES[phase], f"{plan.name}: {deployment.jobs_of(plan)}"
