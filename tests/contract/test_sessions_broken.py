"""Long trials of sessions: what they run in breaks, or comes to its end. Payloads are executed once, or interrupted."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace

import dagster as dg
import pytest

from tests.support.controller import controller_stopped
from tests.support.waiting import eventually

from .in_sessions import SMALL, allocations, finished, half_begun, in_session
from .project import STEP
from .work import HELD, MARKING, Make, Ran, World

pytestmark = [pytest.mark.cluster, pytest.mark.process, pytest.mark.all_faults, pytest.mark.timeout(900)]

SEED = int(os.environ.get("FAULTS_SEED", "4"))
AWAY_SECONDS = 60.0
MOMENTS = 20
# Longer than two of its steps take, so that most moments lie between the start of the process and its end.
MOST_SECONDS = 7.0
ONE_MINUTE = {"extra_slurm_opts": {"time_limit": "00:01:00"}}


def nothing_is_left(world: World) -> None:
    eventually(lambda: not world.jobs(), "the end of the allocations", seconds=180)


class TestItsWalltime:
    """Steps one after the other, and more of them than the walltime has room for."""

    UNITS = tuple("abcdef")

    def test_with_steps_waiting(self, make: Make) -> None:
        """What runs at the end is interrupted, and tried again; what waits goes on in another allocation."""
        world = make(STEP, *self.UNITS[:4])
        work = in_session(world, "sleep 50\n", resource={"retry_policy": {}}, **SMALL, time_limit="00:02:00")
        half_begun(world, work)
        ran = finished(world, 600)
        assert ran.succeeded, ran.text()
        # The end may fall between two steps.
        interrupted = sum("ended as TIMEOUT" in each for each in ran.messages())
        executed, others = world.executed(), len(allocations(world)) - 1
        assert set(executed) == set(world.units)
        assert sum(executed.values()) == len(world.units) + interrupted, ran.text()
        assert interrupted <= others
        assert others >= 1
        nothing_is_left(world)

    def test_with_a_relay(self, make: Make) -> None:
        """With time limits of their own none is interrupted, and the next allocation is queued before the end."""
        world = make(STEP, *self.UNITS)
        fields = {**SMALL, "time_limit": "00:03:00", "relay": True, "relay_lead_minutes": 2}
        half_begun(world, in_session(world, "sleep 40\n", call=ONE_MINUTE, **fields))
        (first,) = world.jobs()
        world.newest().until("to follow job")
        states = dict(each.split() for each in world.jobs(shown="%i %T"))
        (second,) = states.keys() - {first}
        assert states == {first: "RUNNING", second: "PENDING"}
        ran = finished(world, 600)
        assert ran.succeeded, ran.text()
        assert world.executed() == world.once(), ran.text()
        assert allocations(world)[:2] == [first, second]
        nothing_is_left(world)

    def test_a_successor_that_nobody_needs_is_given_back(self, make: Make) -> None:
        world = make(STEP, "a")
        fields = {**SMALL, "time_limit": "00:05:00", "relay": True, "relay_lead_minutes": 4.9}
        half_begun(world, in_session(world, HELD, **fields))
        world.newest().until("to follow job")
        assert len(world.jobs()) == 2
        world.go()
        ran = finished(world)
        assert ran.succeeded, ran.text()
        nothing_is_left(world)
        assert len(allocations(world)) == 1

    def test_a_run_is_terminated_that_has_a_successor_queued(self, make: Make) -> None:
        world = make(STEP, "a", "b")
        fields = {**SMALL, "cpus_per_task": 2, "time_limit": "00:05:00", "relay": True, "relay_lead_minutes": 4.9}
        half_begun(world, in_session(world, HELD, **fields))
        world.started(2)
        world.newest().until("to follow job")
        assert len(world.jobs()) == 2
        world.instance.report_run_canceling(world.newest().dagster_run)
        world.processes[-1].send_signal(signal.SIGTERM)
        assert finished(world).dagster_run.status is dg.DagsterRunStatus.CANCELED
        nothing_is_left(world)
        assert world.executed() == world.once()

    def test_two_processes_make_one_successor(self, make: Make) -> None:
        world = make(STEP, "a")
        fields = {**SMALL, "cpus_per_task": 2, "name": "followed", "time_limit": "00:05:00"}
        work = in_session(world, HELD, **fields, relay=True, relay_lead_minutes=4.9)
        processes = [world.start(work), world.start(work)]
        world.started(2)
        runs = [Ran(world, each.dagster_run.run_id) for each in world.instance.get_run_records()]
        eventually(lambda: any("to follow job" in text for ran in runs for text in ran.messages()), "a successor")
        # Both have renewed their leases once more by then.
        time.sleep(45)
        assert len(world.jobs()) == 2
        world.go()
        assert [process.wait(120) for process in processes] == [0, 0], world.said()
        assert sum("to follow job" in text for ran in runs for text in ran.messages()) == 1
        nothing_is_left(world)


@pytest.mark.parametrize("has_dispatcher", [False, True], ids=["another", "that of the dispatcher"])
def test_a_node_is_lost(make: Make, has_dispatcher: bool) -> None:
    """What ran in the allocation was interrupted, and is tried again; what waited has not begun, and goes on."""
    world = make(STEP, "a", "b", "c", "d")
    fields = {**SMALL, "num_nodes": 2}
    world.start(in_session(world, HELD, resource={"retry_policy": {}}, **fields))
    world.started(2)
    begun = {unit for unit, _ in world.marks()}
    eventually(lambda: sum("Submitted Slurm step" in each for each in world.newest().messages()) == len(world.units))
    (job,) = world.jobs()
    (nodes,) = world.jobs(shown="%B %N")
    first = nodes.split()[0]
    assert world.cluster
    listed = world.cluster.run(["scontrol", "show", "hostnames", nodes.split()[1]]).stdout.split()
    (other,) = set(listed) - {first}
    lost = first if has_dispatcher else other
    with world.cluster.broken(f"node:{lost}"):
        eventually(lambda: job not in world.jobs("RUNNING"), "the end of the allocation", seconds=240)
        world.go()
        ran = finished(world, 400)
    assert ran.succeeded, ran.text()
    assert world.executed() == {unit: 2 if unit in begun else 1 for unit in world.units}, ran.text()
    assert any("NODE_FAIL" in each for each in ran.messages()), ran.text()
    nothing_is_left(world)


@pytest.mark.parametrize("part", ["sshd", "slurmctld"])
def test_away_for_a_minute(make: Make, part: str) -> None:
    """One step ends and the next one is to begin meanwhile."""
    world = make(STEP, "a", "b", "c")
    half_begun(world, in_session(world, "sleep 25\n", **SMALL, time_limit="00:10:00"))
    assert world.cluster
    with controller_stopped(world.cluster) if part == "slurmctld" else world.cluster.broken(part):
        time.sleep(AWAY_SECONDS)
        begun = len(world.marks())
    # Without a controller nothing begins.
    assert begun >= (2 if part == "sshd" else 1)
    ran = finished(world, 400)
    assert ran.succeeded, ran.text()
    assert world.executed() == world.once(), ran.text()
    assert len(allocations(world)) == 1
    nothing_is_left(world)


def test_killed_at_random_moments(make: Make) -> None:
    """One of two processes that share a session by name; the other one's step goes on through all of it."""
    print(f"FAULTS_SEED={SEED}")
    chance = random.Random(f"{SEED} killed in sessions")
    world = make(STEP, "beside")
    fields = {"name": "shared", "cpus_per_task": 2, "idle_timeout_seconds": 60, "time_limit": "01:00:00"}
    held = in_session(world, HELD, **fields)
    beside = world.start(held)
    world.started(1)
    work = replace(held, units=("a", "b"), payload=world.payload(f"{MARKING}sleep 1\n", "killed.sh"))
    before = world.newest()
    for number in range(MOMENTS):
        process = world.start(work)
        begun = world.eventually_another(before)
        time.sleep(MOST_SECONDS * (number + chance.random()) / MOMENTS)
        process.kill()
        process.wait()
        if not begun.dagster_run.is_finished:
            world.instance.report_run_failed(begun.dagster_run)
        before = begun if begun.succeeded else world.retry(begun, work)
        assert before.succeeded, f"moment {number}: {before.text()}"
        assert world.executed() == {"beside": 1, "a": number + 1, "b": number + 1}, f"moment {number}: {before.text()}"
    world.go()
    assert beside.wait(120) == 0, world.said()
    assert len(allocations(world)) == 1
    nothing_is_left(world)
