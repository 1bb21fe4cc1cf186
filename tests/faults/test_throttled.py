"""A job_submit plugin that lets a user submit so many jobs an hour (JobSubmitPlugins=throttle, Slurm's own)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_slurm.sandbox import Sandbox
from dagster_slurm.sandbox.pytest_plugin import config_for_this_worker

from ..support.waiting import eventually
from .conftest import Record
from .project.plan import Plan
from .world import World

pytestmark = [pytest.mark.cluster, pytest.mark.all_faults, pytest.mark.timeout(900)]
JOB = "plain_in_process"
SAID = "Slurm takes no more jobs now; waiting. sbatch: Reached jobs per hour limit"
# Longer than the time after which it is tried again.
LONG_SECONDS = 40.0
JOBS_PER_HOUR = 1
# Whether the hour's place is taken by another job, or by our question whether Slurm would take the job.
TAKEN, FREE = "taken", "free"
ANOTHER = "sbatch --parsable --mem=10M --job-name=another --wrap=true"


@pytest.fixture(scope="module")
def throttled() -> Iterator[Sandbox]:
    options = {"JobSubmitPlugins": "throttle", "SchedulerParameters": f"jobs_per_user_per_hour={JOBS_PER_HOUR}"}
    config = config_for_this_worker("tests-throttled", "throttled", nodes=1, slurm_options=options)
    with Sandbox(config).running() as cluster:
        yield cluster


def begin_another_hour(cluster: Sandbox) -> None:
    """The plugin counts in the memory of slurmctld."""
    with cluster.broken("slurmctld"):
        pass


def test_what_slurm_s_own_plugin_counts(throttled: Sandbox) -> None:
    """A question that it accepts, and nothing that it refuses."""
    begin_another_hour(throttled)
    asked = throttled.run(["sbatch", "--test-only", "--mem=10M", "--wrap=true"])
    assert asked.returncode == 0, asked.stderr
    for _ in range(3):
        assert "Reached jobs per hour limit" in throttled.run(["sh", "-c", ANOTHER]).stderr


def test_it_is_said_at_once_waited_for_and_submitted_once(throttled: Sandbox, tmp_path: Path, record: Record) -> None:
    """With one job an hour, our question took the place of the job each hour."""
    trials = []
    for place in (TAKEN, FREE):
        plan = Plan(f"throttled-{place}", lines=10)
        begin_another_hour(throttled)
        if place == TAKEN:
            assert throttled.run(["sh", "-c", ANOTHER]).returncode == 0
        world = World(throttled, tmp_path / place)
        try:
            world.execute(JOB, plan)
            eventually(lambda: _said(world, plan), SAID)  # noqa: B023 - called before the next trial
            time.sleep(LONG_SECONDS)
            assert not world.marks(plan)
            begin_another_hour(throttled)
            world.wait_for_the_end(plan)
            trials.append(world.figures(plan))
            (warning,) = _said(world, plan)
            (place_again,) = [each for each in world.messages(world.run_of(plan)) if "There is a place again" in each]
            print(place, _seconds(world, plan), warning, place_again)
        finally:
            world.close()
    record("throttled", trials)


def _seconds(world: World, plan: Plan) -> list[str]:
    """When what was said, in seconds since the run began."""
    entries = [entry for entry in world.instance.all_logs(world.run_of(plan).run_id) if entry.step_key]
    words = ("no more jobs", "place again", "Submitted")
    return [
        f"{entry.timestamp - entries[0].timestamp:.1f} s: {word}"
        for entry in entries
        for word in words
        if word in (entry.user_message or entry.message or "")
    ]


def _said(world: World, plan: Plan) -> list[str]:
    return [each for each in world.messages(world.run_of(plan)) if SAID in each]
