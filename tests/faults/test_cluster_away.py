"""Parts of the cluster are away while a job is submitted and while one runs: the runs wait, and lose nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import pytest

from dagster_slurm.sandbox import Sandbox

from ..support.controller import controller_stopped
from .conftest import Record
from .project.plan import Plan, trial_name
from .world import ALL, World

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
AWAY_SECONDS = 60.0 if ALL else 5.0
FLAP_SECONDS = 3.0
JOB = "plain_in_process"
# A login node that is away when a piece of work begins is given up after 30 s, and tried for longer by a retry.
SUBMITTED_JOB = "retried_in_process"


class Disturbed(Protocol):
    """Runs one job that is running when the disturbance begins, and one that is to be submitted meanwhile."""

    def __call__(self, row: str, disturb: Callable[[], None]) -> None: ...


@pytest.fixture
def disturbed(world: World, record: Record) -> Disturbed:
    def run(row: str, disturb: Callable[[], None]) -> None:
        running = Plan(trial_name(row, "running"), lines=int(4 * AWAY_SECONDS) + 10, pause_seconds=0.3)
        submitted = Plan(trial_name(row, "submission"), lines=20)
        world.execute(JOB, running)
        world.started(running)
        world.execute(SUBMITTED_JOB, submitted)
        # The process needs some seconds to its first request; the fault is to be there by then.
        world.run_of(submitted)
        disturb()
        for plan in (running, submitted):
            world.wait_for_the_end(plan)
        record(f"{row}-running", [world.figures(running)])
        record(f"{row}-submission", [world.figures(submitted)])

    return run


def away(sandbox: Sandbox, part: str, *, hang: bool = False) -> None:
    with sandbox.broken(part, hang=hang):
        time.sleep(AWAY_SECONDS)


@pytest.mark.all_faults
def test_sshd_gone(sandbox: Sandbox, disturbed: Disturbed) -> None:
    disturbed("sshd-gone", lambda: away(sandbox, "sshd"))


@pytest.mark.all_faults
def test_sshd_hangs(sandbox: Sandbox, disturbed: Disturbed) -> None:
    disturbed("sshd-hangs", lambda: away(sandbox, "sshd", hang=True))


def test_sshd_flaps(sandbox: Sandbox, disturbed: Disturbed) -> None:
    def flap() -> None:
        until = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < until:
            with sandbox.broken("sshd"):
                time.sleep(FLAP_SECONDS)
            time.sleep(FLAP_SECONDS)

    disturbed("sshd-flaps", flap)


@pytest.mark.all_faults
def test_slurmctld_restarted(sandbox: Sandbox, disturbed: Disturbed) -> None:
    def restart() -> None:
        with controller_stopped(sandbox):
            pass

    disturbed("slurmctld-restarted", restart)


def test_slurmctld_gone(sandbox: Sandbox, disturbed: Disturbed) -> None:
    def stop() -> None:
        with controller_stopped(sandbox):
            time.sleep(AWAY_SECONDS)

    disturbed("slurmctld-gone", stop)


@pytest.mark.all_faults
def test_munged_gone(sandbox: Sandbox, disturbed: Disturbed) -> None:
    """Slurm's commands end with `Protocol authentication error`, after 50 s of their own each."""
    disturbed("munged-gone", lambda: away(sandbox, "munged"))


def test_slurmdbd_gone(sandbox: Sandbox, world: World, record: Record) -> None:
    """From before the end of the job until after the run: the run ends without the accounting."""
    plan = Plan("slurmdbd-gone", lines=20)
    world.execute(JOB, plan)
    world.started(plan)
    with sandbox.broken("slurmdbd"):
        begun = time.monotonic()
        world.wait_for_the_end(plan)
        if ALL:
            time.sleep(max(0.0, begun + AWAY_SECONDS - time.monotonic()))
    record("slurmdbd-gone", [world.figures(plan)])
