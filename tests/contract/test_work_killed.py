"""A process of Dagster that is killed, at each moment of a piece of work: executed once, whatever carries it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import pytest

from tests.support.waiting import eventually

from .project import ARRAY, HET, LOCAL, LOCAL_PARTITIONS, OWN, STEP, STEPS, Kind, Work
from .work import HELD, Make, Ran, World, kinds

pytestmark = [pytest.mark.process, pytest.mark.timeout(240), pytest.mark.sampled("kind", share=3)]

SUBMITS = "submit"
# Of what does not go with the submission.
UPLOADS = "put_tree"
LARGE = f"# {'x' * 300_000}\n"


@dataclass(frozen=True)
class Moment:
    """When the process is killed.

    Args:
        name: For people.
        die: At which step it kills itself, as `dying` names it.
        until: What is waited for before it is killed from outside.
        call: Further arguments of the killed process's call.
        is_large: Whether the payload is too large to go with the submission.
        in_short: Whether `make test` tries it.
    """

    name: str
    die: str = ""
    until: Callable[[World], None] | None = None
    call: tuple[tuple[str, object], ...] = ()
    is_large: bool = False
    in_short: bool = False

    @property
    def parameter(self) -> object:
        marks = () if self.in_short else pytest.mark.all_faults
        return pytest.param(self, id=self.name, marks=marks)


def waits(world: World) -> None:
    eventually(lambda: world.jobs("PENDING"), "a job that waits")


def runs(world: World) -> None:
    world.started()


def has_ended_unseen(world: World) -> None:
    """Ended while the process was stopped."""
    world.started()
    world.processes[-1].send_signal(signal.SIGSTOP)
    world.go()
    eventually(lambda: not world.jobs(), "the end of all jobs")


HOLD = (("extra_slurm_opts", {"hold": True}),)
MOMENTS = (
    Moment("before the upload of what is large", die=f"before:{UPLOADS}", is_large=True),
    Moment("after the upload of what is large", die=f"after:{UPLOADS}", is_large=True),
    Moment("before the submission", die=f"before:{SUBMITS}"),
    Moment("while the submission is under way", die=f"during:{SUBMITS}"),
    Moment("before the answer of sbatch is read", die=f"after:{SUBMITS}", in_short=True),
    Moment("while the job waits", until=waits, call=HOLD),
    Moment("while the job runs", until=runs),
    Moment("after the end, before it is seen", until=has_ended_unseen, in_short=True),
    Moment("before the end is recorded", die="before:record"),
    Moment("after a unit is recorded", die="after:record"),
)


def killed(world: World, work: Work, moment: Moment) -> Ran:
    process = world.start(replace(work, die=moment.die, call={**work.call, **dict(moment.call)}))
    if moment.until:
        moment.until(world)
    else:
        process.wait(60)
        assert (world.notes / "contract.died").exists(), world.said()
    return world.kill(process)


@kinds(OWN, ARRAY, seldom=(OWN,))
def test_the_directory_is_removed_before_the_retry(make: Make, kind: Kind) -> None:
    """Slurm knows the job by its name: there was a second one beside it."""
    world = make(kind, *units_of(kind))
    assert world.cluster
    work = world.work(HELD)
    process = world.start(work)
    world.started()
    # It is written beside the following.
    eventually(lambda: "slurm/run_directory" in world.newest().dagster_run.tags, "the tag of the directory")
    first = world.kill(process)
    path = first.dagster_run.tags["slurm/run_directory"]
    assert world.cluster.run(["rm", "-rf", "--", path]).returncode == 0
    world.start(work, "from_failure", first.run_id)
    second = world.eventually_another(first)
    if kind is OWN:
        second.until("is not there any more; what it says from now on is lost")
        world.go()
    assert world.processes[-1].wait(170) is not None
    assert (second.dagster_run.status, world.executed()) == (dg.DagsterRunStatus.FAILURE, world.once())
    lost = "was removed before it was read" if kind is OWN else "Nothing is submitted beside it"
    assert "ResultLostError" in second.text()
    assert lost in second.text()


def units_of(kind: Kind) -> tuple[str, ...]:
    return ("a", "b") if kind.is_array else ("a",)


@kinds(OWN, ARRAY, STEP, STEPS, HET, seldom=[STEPS, HET])
@pytest.mark.parametrize("moment", [moment.parameter for moment in MOMENTS])
def test_killed_and_retried_each_executed_once(make: Make, kind: Kind, moment: Moment) -> None:
    if kind.is_step and moment.call:
        pytest.skip("a step is not held in the queue")
    world = make(kind, *units_of(kind))
    work = world.work((HELD if moment.until else "") + (LARGE if moment.is_large else ""))
    first = killed(world, work, moment)
    for job in world.jobs("PENDING") if moment.call else ():
        world.control_job("release", job)
    world.go()
    again = world.retry(first, work)
    assert again.succeeded, again.text()
    assert world.executed() == world.once(), again.text()
    # What is on record is of the jobs that ran the payloads, and not of others.
    ran = dict(world.marks())
    recorded = {**first.materialized(), **again.materialized()}
    assert {unit: str(made["slurm_job_id"]) for unit, made in recorded.items()} == ran


@kinds(OWN, ARRAY, STEP, STEPS, seldom=[OWN, ARRAY, STEP, STEPS])
def test_the_retry_is_killed_as_well(make: Make, kind: Kind) -> None:
    world = make(kind, *units_of(kind))
    work = world.work(HELD)
    first = killed(world, work, Moment("", until=runs))
    process = world.start(work, "from_failure", first.run_id)
    world.eventually_another(first).until("Reattaching to Slurm")
    second = world.kill(process)
    world.go()
    third = world.retry(second, work)
    assert third.succeeded, third.text()
    assert world.executed() == world.once()


SAYS_SO = "runs again"


@kinds(
    LOCAL,
    LOCAL_PARTITIONS,
)
def test_here_the_payload_ends_as_well_or_the_retry_says_that_it_runs_again(make: Make, kind: Kind) -> None:
    world = make(kind, "a")
    work = world.work(HELD)
    process = world.start(work)
    world.started()
    first = world.kill(process)
    ((_, pid),) = world.marks()
    has_ended = gone(int(pid))
    world.go()
    again = world.retry(first, work)
    assert again.succeeded, again.text()
    assert world.executed() == {"a": 2}
    assert has_ended or any(SAYS_SO in each for each in again.messages())


def gone(pid: int) -> bool:
    """Whether a process ends soon after another."""
    with suppress(AssertionError):
        eventually(lambda: not has_life(pid), seconds=3.0)
        return True
    return False


def has_life(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
