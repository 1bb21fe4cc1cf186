"""A run directory that somebody removes, by hand or by a site's clean-up: nothing of it is lost without a word."""

from __future__ import annotations

import pytest

from dagster_slurm.sandbox import Sandbox

from ..support.waiting import eventually
from .conftest import Record
from .project.plan import Plan
from .world import World

pytestmark = [pytest.mark.cluster, pytest.mark.all_faults, pytest.mark.timeout(500)]
JOB = "plain_in_process"


def remove(world: World, sandbox: Sandbox, plan: Plan, what: str = "") -> None:
    """Remove the directory of a trial's run, or something in it."""
    path = eventually(lambda: world.run_of(plan).tags.get("slurm/run_directory"), f"the directory of {plan.name}")
    assert path.startswith("/") and "/runs/" in path
    assert sandbox.run(["sh", "-c", f"rm -rf -- {path}{what}"]).returncode == 0


def until_told(world: World, plan: Plan, text: str) -> None:
    eventually(lambda: any(text in each for each in world.messages(world.run_of(plan))), text)


def test_while_the_job_runs(sandbox: Sandbox, world: World, record: Record) -> None:
    plan = Plan("removed-running", hold=True)
    world.execute(JOB, plan)
    world.started(plan)
    remove(world, sandbox, plan)
    until_told(world, plan, "is not there any more; what it says from now on is lost, and so is its result")
    world.let_go(plan)
    world.wait_for_the_end(plan, seconds=400)
    failure = world.failure(world.run_of(plan))
    assert "was removed" in failure
    assert "kept on" not in failure
    record("removed-running", [world.figures(plan)], ends=("FAILURE",), lines=False)


def test_while_the_job_waits(sandbox: Sandbox, world: World, record: Record) -> None:
    """It was "signal 53", and "kept" in a directory that was not there."""
    plan = Plan("removed-pending", slurm={"hold": True})
    world.execute(JOB, plan)
    (job_id,) = eventually(lambda: list(world.jobs_of(plan)), "a job")
    remove(world, sandbox, plan)
    until_told(world, plan, "is not there any more; it cannot start without")
    assert sandbox.run(["scontrol", "release", job_id], user="root").returncode == 0
    world.wait_for_the_end(plan, seconds=400)
    failure = world.failure(world.run_of(plan))
    assert "JobLaunchFailedError" in failure
    assert "was removed" in failure
    assert "signal 53" not in failure
    assert "kept on" not in failure
    record("removed-pending", [world.figures(plan)], executed=0, ends=("FAILURE",), lines=False)


def test_its_logs_alone(sandbox: Sandbox, world: World) -> None:
    """As `find -mtime` removes files and leaves directories: it was a success, with lines lost and no word."""
    plan = Plan("removed-logs", hold=True)
    world.execute(JOB, plan)
    world.started(plan)
    remove(world, sandbox, plan, "/*/*/log/*")
    world.let_go(plan)
    world.wait_for_the_end(plan)
    run = world.run_of(plan)
    assert run.status.value == "SUCCESS"
    told = [each for each in world.messages(run) if "bytes of its stdout could not be read" in each]
    assert len(told) == 1, world.messages(run)
