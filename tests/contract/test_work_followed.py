"""Work on a cluster that is adopted, withdrawn, or tried again by cause: the same for an own job and a job array."""

from __future__ import annotations

import signal
from pathlib import Path

import dagster as dg
import pytest

from tests.support.waiting import eventually

from .project import ARRAY, HET, LOCAL, LOCAL_HET, LOCAL_PARTITIONS, OWN, STEP, STEPS, Kind, Work
from .work import COUNTED, EATS, HELD, Make, Ran, World, kinds

pytestmark = [pytest.mark.process, pytest.mark.timeout(240), pytest.mark.sampled("kind", share=3)]

BOTH = (OWN, ARRAY)
FOUR = (*BOTH, STEP, STEPS)
ADOPTED = "An earlier run of the same work has a job that goes on"


def killed_while_running(world: World, body: str = HELD) -> Ran:
    process = world.start(world.work(body))
    world.started()
    return world.kill(process)


def finished(world: World, first: Ran, work: Work, *how: str) -> Ran:
    """A run after the first, which has its job, whichever that is, when the payloads are let go."""
    process = world.start(work, *how)
    again = world.eventually_another(first)
    again.until("Reattaching to Slurm", "Submitted Slurm")
    world.go()
    process.wait(120)
    return again


@kinds(*FOUR, HET, seldom=[HET])
def test_all_steps_again_adopts_what_is_live(make: Make, kind: Kind) -> None:
    world = make(kind, *(("a", "b") if kind is HET else ("a",)))
    first = killed_while_running(world)
    again = finished(world, first, world.work(HELD), "all_steps", first.run_id)
    assert again.succeeded, again.text()
    assert world.executed() == world.once()
    assert ADOPTED in again.text()


@kinds(*FOUR, seldom=[STEPS])
def test_a_new_run_adopts_what_is_abandoned_if_asked_to(make: Make, kind: Kind) -> None:
    world = make(kind, "a")
    first = killed_while_running(world)
    again = finished(world, first, world.work(HELD, resource={"reattach": "asset"}))
    assert again.succeeded, again.text()
    assert world.executed() == world.once()
    assert ADOPTED in again.text()


@kinds(*FOUR, seldom=FOUR)
def test_a_new_run_is_new_work_by_default(make: Make, kind: Kind) -> None:
    world = make(kind, "a")
    first = killed_while_running(world)
    again = finished(world, first, world.work(HELD))
    assert again.succeeded, again.text()
    assert world.executed() == {"a": 2}


@kinds(*FOUR, HET, seldom=[HET])
def test_what_fails_after_it_was_adopted_fails_the_step(make: Make, kind: Kind) -> None:
    world = make(kind, "a")
    body = HELD + COUNTED + "[ $tries -gt 1 ] || exit 3\n"
    first = killed_while_running(world, body)
    again = finished(world, first, world.work(body), "from_failure", first.run_id)
    assert not again.succeeded
    assert world.executed() == world.once(), again.text()
    assert "State FAILED, exit code 3" in again.failure("a"), again.text()


@kinds(*FOUR, seldom=[STEPS])
def test_the_tags_of_the_run_name_the_job(make: Make, kind: Kind) -> None:
    world = make(kind, "a")
    ran = world.run(world.work(""))
    assert ran.succeeded, ran.text()
    ((_, job),) = world.marks()
    # Slurm's number of a step is not known when it is asked for.
    tag = f"{job.partition('.')[0]}.r1" if kind.is_step else job.partition("_")[0]
    assert f"slurm/job/{tag}" in ran.dagster_run.tags


# -- withdrawn


@kinds(*FOUR, HET, seldom=[HET])
def test_a_termination_cancels_what_runs_and_nothing_begins_after_it(make: Make, kind: Kind) -> None:
    """Of an array, a task that waits as well."""
    units = ("a", "b") if kind.is_array else ("a",)
    world = make(kind, *units)
    work = world.work(HELD, call={"max_parallel": 1} if kind in (ARRAY, STEPS) else {})
    process = world.start(work)
    running = 2 if kind is HET else 1
    world.started(running)
    terminated(world, process_signal=True)
    assert process.wait(90) is not None
    withdrawn(world, executed=running)


@kinds(*BOTH, seldom=[ARRAY])
def test_a_termination_takes_back_what_waits(make: Make, kind: Kind) -> None:
    """Also where nobody sends the process a signal."""
    world = make(kind, "a")
    process = world.start(world.work(HELD, call={"extra_slurm_opts": {"hold": True}}))
    (job,) = eventually(lambda: world.jobs("PENDING"), "a job that waits")
    world.newest().until("Submitted Slurm")
    terminated(world, process_signal=False)
    assert process.wait(90) is not None
    withdrawn(world, executed=0)
    assert job in world.jobs("CANCELLED")


@kinds(*FOUR, seldom=[ARRAY, STEP, STEPS])
def test_a_run_over_its_maximum_runtime_leaves_no_job(make: Make, kind: Kind) -> None:
    """Its status is FAILURE before its process can look (`check_run_timeout` of Dagster's run monitoring, 1.13)."""
    world = make(kind, "a")
    process = world.start(world.work(HELD))
    world.started(1)
    run = terminated(world, process_signal=True)
    world.instance.report_run_failed(run, "Exceeded maximum runtime of 5 seconds.")
    assert process.wait(90) is not None
    withdrawn(world, executed=1, status=dg.DagsterRunStatus.FAILURE)
    assert "The run was terminated: cancelling its Slurm jobs" in world.newest().text()


@kinds(OWN)
def test_ctrl_c_before_there_is_a_job_ends_the_step(make: Make, kind: Kind) -> None:
    """SIGTERM does not: what restarts a service has no other, and the run would be lost with it."""
    world = make(kind, "a")
    assert world.cluster
    with world.cluster.broken("sshd"):
        process = world.start(world.work(HELD))
        eventually(lambda: world.instance.get_run_records(limit=1), "a run")
        world.newest().until("The cluster does not answer")
        process.send_signal(signal.SIGTERM)
        world.newest().until("it goes on with the submission")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) is not None
    assert world.newest().dagster_run.status is dg.DagsterRunStatus.FAILURE
    assert not world.jobs()


@pytest.mark.parametrize("process_signal", [True, False], ids=["signal", "no signal"])
@kinds(LOCAL, LOCAL_PARTITIONS, LOCAL_HET)
def test_a_termination_ends_a_payload_on_this_machine(make: Make, kind: Kind, process_signal: bool) -> None:
    """Its step is on a thread, where neither a signal nor Dagster's exception comes."""
    world = make(kind, "a")
    process = world.start(world.work("sleep 300\n"))
    world.started(1)
    terminated(world, process_signal=process_signal)
    assert process.wait(60) is not None
    assert world.newest().dagster_run.status is dg.DagsterRunStatus.CANCELED, world.newest().text()
    ((_, pid),) = world.marks()
    assert not Path("/proc", pid).exists()


def terminated(world: World, *, process_signal: bool) -> dg.DagsterRun:
    """By a user."""
    run = world.newest().dagster_run
    world.instance.report_run_canceling(run)
    if process_signal:
        world.processes[-1].send_signal(signal.SIGTERM)
    return run


def withdrawn(world: World, *, executed: int, status: dg.DagsterRunStatus = dg.DagsterRunStatus.CANCELED) -> None:
    assert world.newest().dagster_run.status is status, world.newest().text()
    world.go()
    eventually(lambda: not world.jobs(), "the end of all jobs")
    assert len(world.marks()) == executed
    assert world.newest().materialized() == {}


# -- tried again


ONCE_MORE = {"retry_policy": {"max_retries": 1, "memory_factor": 1.2}}


@kinds(*FOUR, seldom=[STEP])
def test_a_killed_process_does_not_count_anew(make: Make, kind: Kind) -> None:
    """Its one retry is used up when it dies."""
    world = make(kind, "a")
    body = COUNTED + "[ $tries = 1 ] || " + HELD + EATS.format(mib=300)
    work = world.work(body, resource=ONCE_MORE)
    process = world.start(work)
    world.started(2)
    first = world.kill(process)
    again = finished(world, first, work, "from_failure", first.run_id)
    assert not again.succeeded
    assert world.executed() == {"a": 2}, again.text()
    assert "State OUT_OF_MEMORY" in again.failure("a")


SECONDS = {"extra_slurm_opts": {"time_limit": "00:01:00"}}


@kinds(*FOUR, seldom=FOUR)
def test_over_its_walltime_is_tried_again_with_more(make: Make, kind: Kind) -> None:
    world = make(kind, "a")
    body = COUNTED + "[ $tries = 2 ] || sleep 300\n"
    ran = world.run(world.work(body, call=SECONDS, resource={"retry_policy": {"max_time_limit": "00:03:00"}}))
    assert ran.succeeded, ran.text()
    assert world.executed() == {"a": 2}
    (reason,) = [text for text in ran.messages() if "ended as TIMEOUT" in text]
    assert "the next attempt has 00:02:00" in reason


@kinds(*BOTH, seldom=BOTH)
def test_a_node_that_fails_is_left_out(make: Make, kind: Kind) -> None:
    world = make(kind, "a")
    assert world.cluster
    work = world.work(
        COUNTED + "[ $tries = 2 ] || sleep 300\n",
        call={"extra_slurm_opts": {"no_requeue": True}},
        resource={"retry_policy": {}},
    )
    process = world.start(work)
    world.started()
    (node,) = world.jobs("RUNNING", "%N")
    with world.cluster.broken(f"node:{node}"):
        assert process.wait(180) == 0, world.said()
    assert world.executed() == {"a": 2}
    assert f"the next attempt leaves out {node}" in world.newest().text()
