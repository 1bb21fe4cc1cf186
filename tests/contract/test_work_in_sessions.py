"""What only a session has: steps that share an allocation, and what becomes of them when that ends."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.controller import controller_stopped
from tests.support.waiting import eventually

from .in_sessions import SMALL, finished, half_begun, in_session
from .project import STEP, STEPS
from .work import COUNTED, HELD, Make

pytestmark = [pytest.mark.cluster, pytest.mark.process, pytest.mark.timeout(300)]


class TestTheAllocation:
    def test_all_steps_of_a_run_have_one_which_ends_with_it(self, make: Make) -> None:
        world = make(STEP, "a", "b", "c")
        ran = world.run(in_session(world, "", idle_timeout_seconds=300))
        assert ran.succeeded, ran.text()
        assert len({job.partition(".")[0] for _, job in world.marks()}) == 1
        eventually(lambda: not world.jobs(), "the end of the allocation", seconds=60)

    def test_processes_that_ask_at_once_share_one_with_a_name(self, make: Make) -> None:
        world = make(STEP, "a")
        work = in_session(world, HELD, name="shared", idle_timeout_seconds=120)
        processes = [world.start(work), world.start(work)]
        world.started(2)
        assert len(world.jobs()) == 1
        world.go()
        assert [process.wait(120) for process in processes] == [0, 0], world.said()
        # It outlives the runs, and the next one uses it.
        (job,) = world.jobs()
        ran = world.run(in_session(world, "", name="shared", idle_timeout_seconds=120))
        assert ran.succeeded, ran.text()
        assert {mark.partition(".")[0] for _, mark in world.marks()} == {job}

    def test_another_shape_of_the_same_name_is_refused(self, make: Make) -> None:
        world = make(STEP, "a")
        assert world.run(in_session(world, "", name="shaped", idle_timeout_seconds=60)).succeeded
        ran = world.run(in_session(world, "", name="shaped", cpus_per_task=2))
        assert not ran.succeeded
        line = ran.failure("a").splitlines()[0]
        assert "Session 'shaped' has the shape" in line
        assert "--cpus-per-task=8" in line
        assert "--cpus-per-task=2" in line

    @pytest.mark.all_faults
    def test_it_ends_when_nobody_needs_it(self, make: Make) -> None:
        world = make(STEP, "a")
        assert world.run(in_session(world, "", name="idle", idle_timeout_seconds=1)).succeeded
        eventually(lambda: not world.jobs(), "the end of the allocation", seconds=60)
        ran = world.run(in_session(world, "", name="idle", idle_timeout_seconds=1))
        assert ran.succeeded, ran.text()
        assert len({job.partition(".")[0] for _, job in world.marks()}) == 2


class TestShares:
    def test_what_does_not_fit_waits(self, make: Make) -> None:
        units = tuple("abcdefgh")
        world = make(STEP, *units)
        world.start(in_session(world, HELD, cpus_per_task=4))
        world.started(4)
        world.newest().until("Submitted Slurm")
        # The others are asked for by then.
        eventually(lambda: sum("Submitted Slurm step" in each for each in world.newest().messages()) == 8)
        assert len(world.marks()) == 4
        world.go()
        ran = finished(world)
        assert ran.succeeded, ran.text()
        assert world.executed() == world.once()

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"cpus": 9}, "The step asks for 9 CPUs on a node, and the run's session has 8"),
            ({"mem": "3G"}, "The step asks for 3072M memory on a node, and the run's session has 2048M"),
            ({"num_nodes": 2}, "The step asks for 2 nodes, and the run's session has 1"),
            ({"gres": "gpu:1"}, "'gres' of the call cannot be asked for a step of a session"),
        ],
    )
    def test_what_can_never_fit_is_refused(self, make: Make, asked: dict[str, Any], said: str) -> None:
        world = make(STEP, "a")
        ran = world.run(world.work("", call={"extra_slurm_opts": asked}))
        assert not ran.succeeded
        assert said in ran.failure("a").splitlines()[0], ran.text()
        assert not world.jobs()


class TestTheAllocationIsGone:
    """What has begun was interrupted; what has not, goes on in the next one."""

    @pytest.mark.parametrize("kind", [STEP, pytest.param(STEPS, marks=pytest.mark.all_faults)], ids=str)
    def test_cancelled_by_an_administrator(self, make: Make, kind: Any) -> None:
        world = make(kind, "a", "b", "c")
        half_begun(world, in_session(world, HELD, **SMALL))
        ((first, _),) = world.marks()
        (job,) = world.jobs()
        assert world.cluster
        assert world.cluster.run(["scancel", job], user="root").returncode == 0
        world.started(2)
        world.go()
        ran = finished(world)
        assert not ran.succeeded
        assert world.executed() == world.once(), ran.text()
        assert sorted({*world.units} - {first}) == sorted(ran.materialized()), ran.text()
        assert "State CANCELLED" in ran.failure(first), ran.text()
        assert len({job.partition(".")[0].partition("_")[0] for _, job in world.marks()}) == 2

    @pytest.mark.all_faults
    def test_its_dispatcher_is_killed(self, make: Make) -> None:
        world = make(STEP, "a", "b")
        half_begun(world, in_session(world, HELD, **SMALL))
        ((first, _),) = world.marks()
        assert world.cluster
        assert world.cluster.run(["pkill", "-KILL", "-f", "dispatch[.]sh"]).returncode == 0
        world.started(2)
        world.go()
        ran = finished(world)
        assert world.executed() == world.once(), ran.text()
        assert list(ran.materialized()) == sorted({*world.units} - {first}), ran.text()

    @pytest.mark.all_faults
    def test_what_was_interrupted_follows_the_retry_rules(self, make: Make) -> None:
        """A walltime that is reached, which gives back what would not fit into it any more."""
        world = make(STEP, "a", "b")
        body = COUNTED + "[ $tries = 2 ] || [ $unit = b ] || sleep 300\n"
        fields = {**SMALL, "time_limit": "00:01:00"}
        work = in_session(world, body, resource={"retry_policy": {}}, **fields)
        half_begun(world, work)
        ran = finished(world)
        assert ran.succeeded, ran.text()
        assert world.executed() == {"a": 2, "b": 1}, ran.text()


@pytest.mark.all_faults
@pytest.mark.parametrize("part", ["sshd", "slurmctld"])
def test_away_while_steps_run_and_wait(make: Make, part: str) -> None:
    world = make(STEP, "a", "b")
    half_begun(world, in_session(world, "sleep 3\n", **SMALL))
    assert world.cluster
    away = controller_stopped(world.cluster) if part == "slurmctld" else world.cluster.broken(part)
    with away:
        eventually(lambda: world.newest().until("does not answer") or True, seconds=60) if part == "sshd" else None
    ran = finished(world)
    assert ran.succeeded, ran.text()
    assert world.executed() == world.once()
