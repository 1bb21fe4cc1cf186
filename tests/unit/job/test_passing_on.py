"""What many units say is passed on by a thread beside: whatever is done about the end of one meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.support.waiting import eventually

from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.job.events import Broken, Ended, Event, Listener, Output
from dagster_slurm.pipes.step import Step
from dagster_slurm.pipes.step_logs import Teller, ThreadStreams
from dagster_slurm.run_directory import JobHandle, LaunchKey
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.slurm.states import JobState
from dagster_slurm.work.carriers import Carrier, Carriers
from dagster_slurm.work.followed import Followed

UNITS = ("a", "b", "c")
END = Ended(JobState.COMPLETED, None, None, None)


class Session:
    """Keeps what it is given, and on which thread."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.threads: set[int] = set()
        self.fault: Exception | None = None

    def take(self, stream: str, data: bytes) -> None:
        if self.fault is not None:
            raise self.fault
        print(data.decode())
        self.said.append(data)
        self.threads.add(threading.get_ident())

    def finish(self) -> None:
        self.said.append(b"end")
        self.threads.add(threading.get_ident())


class World:
    """Three units of an array."""

    def __init__(self, *, beside: bool) -> None:
        self.sessions = {unit: Session() for unit in UNITS}
        self.listeners: dict[str, Listener] = {}
        pipes = SimpleNamespace(session=lambda unit, **options: self.sessions[unit])
        carriers = SimpleNamespace(watch=self.watch, forget=lambda listeners: None)
        step = cast(Step, SimpleNamespace(pipes=pipes))
        self.followed = Followed(step, cast(Carriers, carriers), Teller(""), beside=beside)

    def watch(self, jobs: Any) -> None:
        self.listeners = dict(zip(UNITS, (listener for _, _, listener in jobs), strict=True))

    def begin(self) -> None:
        handle = JobHandle(LaunchKey("run", "step").first_attempt("/base"), "7")
        self.followed.add(Carrier(0, handle, UNITS, UNITS, JobRequest(), is_array=True), give_up_at=None)

    def tell(self, unit: str, *events: Event) -> None:
        for event in events:
            self.listeners[unit].put(event)

    def next_end(self) -> str:
        """The unit that ends next."""

        def look() -> str | None:
            self.followed.take_in()
            end = self.followed.next_end()
            return end[0].unit if end else None

        return eventually(look)


@pytest.fixture
def world() -> Iterator[World]:
    world = World(beside=True)
    with closing(world.followed):
        world.begin()
        yield world


def test_while_an_end_is_recorded_the_lines_of_others_go_on(world: World) -> None:
    world.tell("a", Output("stdout", b"1"), END)
    assert world.next_end() == "a"
    # Nothing is called here that passes anything on.
    world.tell("b", Output("stdout", b"2"))
    eventually(lambda: world.sessions["b"].said == [b"2"])
    assert len(world.followed) == 2


def test_what_a_unit_has_said_is_passed_on_before_its_end(world: World) -> None:
    for unit in ("b", "a"):
        world.tell(unit, *(Output("stdout", b"%d" % number) for number in range(100)), END)
    assert [world.next_end(), world.next_end()] == ["b", "a"]
    for unit in ("a", "b"):
        assert world.sessions[unit].said == [*(b"%d" % number for number in range(100)), b"end"]


def test_all_of_it_on_one_thread_and_in_one_place(world: World) -> None:
    for unit in UNITS:
        world.tell(unit, Output("stdout", b"1"), END)
    assert {world.next_end() for _ in UNITS} == set(UNITS)
    (thread,) = set().union(*(session.threads for session in world.sessions.values()))
    assert thread != threading.get_ident()


def test_what_is_printed_goes_where_the_step_prints(tmp_path: Any) -> None:
    world, streams = World(beside=True), ThreadStreams()
    with (
        (tmp_path / "step").open("w") as file,
        streams,
        streams.of_this_thread({"stdout": file}),
        closing(world.followed),
    ):
        world.begin()
        world.tell("a", Output("stdout", b"of the payload"), END)
        world.next_end()
    assert (tmp_path / "step").read_text() == "of the payload\n"


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("fault", [DagsterSlurmError("broken"), OSError(28, os.strerror(28))])
def test_a_fault_is_raised_by_the_step_s_own_thread(fault: Exception, *, beside: bool) -> None:
    world = World(beside=beside)
    with closing(world.followed):
        world.begin()
        if isinstance(fault, DagsterSlurmError):
            world.tell("a", Broken(fault))
        else:
            world.sessions["a"].fault = fault
            world.tell("a", Output("stdout", b"1"))
        with pytest.raises(type(fault)):
            eventually(world.followed.take_in)


def test_when_it_is_closed_nothing_is_passed_on_any_more(world: World) -> None:
    world.followed.close()
    world.tell("a", Output("stdout", b"1"), END)
    assert [thread for thread in threading.enumerate() if thread.name == "dagster-slurm-passing-on"] == []
    assert world.sessions["a"].said == []


def test_one_unit_is_passed_on_by_the_step_s_own_thread() -> None:
    world = World(beside=False)
    world.begin()
    world.tell("a", Output("stdout", b"1"), END)
    assert world.next_end() == "a"
    assert world.sessions["a"].threads == {threading.get_ident()}
