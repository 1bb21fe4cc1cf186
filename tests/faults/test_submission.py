"""The submission is cut off at its worst moments: whatever arrives late, the payload runs once."""

from __future__ import annotations

import pwd
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from dagster_slurm.sandbox import Sandbox
from dagster_slurm.sandbox import processes as process_table

from .conftest import Record
from .login import crash_login_node, kill, login_node_with
from .project.plan import Plan
from .proxy import SlowController
from .waiting import eventually
from .world import World

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
JOB = "plain_in_process"
# Submits, says so, and then stays, so that nothing is recorded: the test comes and ends it.
SLOW_SBATCH = """#!/bin/sh
case " $* " in *" --parsable "*) ;; *) exec /usr/bin/sbatch "$@" ;; esac
/usr/bin/sbatch "$@" || exit
if mkdir "$HOME/{once}" 2>/dev/null; then
    echo "$$ $PPID" >"$HOME/{once}/pids.part"
    mv "$HOME/{once}/pids.part" "$HOME/{once}/pids"
    sleep 300
fi
"""


@pytest.fixture
def in_flight(breakable: Sandbox, tmp_path: Path) -> Iterator[tuple[World, SlowController]]:
    """A world whose first submission is held back on its way to the controller."""
    controller = SlowController(breakable, tmp_path)
    variables = {"SLURM_CONF": str(controller.slurm_conf)}
    with login_node_with(breakable, tmp_path / "login", variables=variables) as node, ExitStack() as cleanup:
        cleanup.callback(controller.close)
        world = World(breakable, tmp_path / "world", variables=node.env())
        cleanup.callback(world.close)
        yield world, controller


def late_duplicate(world: World, controller: SlowController, plan: Plan, cut_off: Callable[[], None]) -> None:
    """Cut the submission off, and let its request arrive when the job that took its place runs."""
    world.execute(JOB, plan)
    assert controller.held.wait(60.0), "no submission came to the controller"
    cut_off()
    job = world.started(plan)
    controller.release()
    eventually(lambda: len(world.jobs_of(plan)) > 1, "the late duplicate")
    world.wait_for_the_end(plan)
    (duplicate,) = {*world.jobs_of(plan)} - {job}
    eventually(lambda: world.jobs_of(plan)[duplicate] == "COMPLETED", "the end of the duplicate at the gate")


def test_sbatch_killed_with_its_request_in_flight(
    breakable: Sandbox, in_flight: tuple[World, SlowController], record: Record
) -> None:
    world, controller = in_flight
    plan = Plan("sbatch-killed")
    late_duplicate(world, controller, plan, lambda: kill(pids_of(breakable, "sbatch")))
    record("sbatch-killed", [world.figures(plan)])


def test_login_node_crashes_with_the_request_in_flight(
    breakable: Sandbox, in_flight: tuple[World, SlowController], record: Record
) -> None:
    world, controller = in_flight
    plan = Plan("login-crashed-in-flight", lines=60)
    late_duplicate(world, controller, plan, lambda: crash_login_node(breakable))
    record("login-crashed-in-flight", [world.figures(plan)])


def pids_of(sandbox: Sandbox, program: str) -> list[int]:
    """The user's processes that run a program."""
    uid = pwd.getpwnam(sandbox.user).pw_uid

    def runs(path: Path) -> bool:
        return process_table.has_user(path, uid) and (path / "comm").read_text().strip() == program

    return [process.pid for process in process_table.matching(runs)]


@contextmanager
def submitted_and_not_recorded(sandbox: Sandbox, directory: Path, plan: Plan) -> Iterator[tuple[World, list[int]]]:
    """A run whose job is submitted and whose id is not recorded: what does it, waits (its ids are given)."""
    once = f"once-{plan.name}-{secrets.token_hex(4)}"
    programs = {"sbatch": SLOW_SBATCH.replace("{once}", once)}
    with login_node_with(sandbox, directory / "login", programs=programs) as node, ExitStack() as cleanup:
        world = World(sandbox, directory / "world", variables=node.env())
        cleanup.callback(world.close)
        world.execute(JOB, plan)
        pids = sandbox.home / once / "pids"
        eventually(pids.exists, "a submission")
        yield world, [int(word) for word in pids.read_text().split()]


def test_remote_shell_killed_before_the_record(breakable: Sandbox, tmp_path: Path, record: Record) -> None:
    plan = Plan("shell-killed")
    with submitted_and_not_recorded(breakable, tmp_path, plan) as (world, pids):
        kill(pids)
        world.wait_for_the_end(plan)
        record("shell-killed", [world.figures(plan)])


def test_login_node_crashes_before_the_record(breakable: Sandbox, tmp_path: Path, record: Record) -> None:
    plan = Plan("login-crashed")
    with submitted_and_not_recorded(breakable, tmp_path, plan) as (world, _):
        crash_login_node(breakable)
        world.wait_for_the_end(plan)
        record("login-crashed", [world.figures(plan)])
