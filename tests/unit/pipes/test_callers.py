"""Threads that make calls beside a step's own: used again, and gone without work."""

import gc
import queue
import threading

import pytest
from tests.support.waiting import eventually

from dagster_slurm.executor import _set_aside
from dagster_slurm.pipes import interruptions
from dagster_slurm.pipes.interruptions import _Callers
from dagster_slurm.resources import unsaid
from dagster_slurm.resources.slurm import SlurmQueueConfig


@pytest.fixture(autouse=True)
def long_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    """They outlive every pause of a busy machine."""
    monkeypatch.setattr(interruptions, "_IDLE_SECONDS", 600.0)


def thread_of_a_call(callers: _Callers) -> threading.Thread:
    """The thread that makes a call; it has come back from it."""
    done: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
    callers.do(lambda: done.put(threading.current_thread()))
    thread = done.get()
    eventually(lambda: callers._idle, "its return")
    return thread


def test_a_thread_makes_one_call_after_the_other() -> None:
    callers = _Callers()
    first = thread_of_a_call(callers)
    assert [thread_of_a_call(callers) for _ in range(3)] == [first] * 3


def test_a_call_that_is_left_behind_holds_up_no_other() -> None:
    callers, end = _Callers(), threading.Event()
    callers.do(end.wait)
    thread_of_a_call(callers)
    end.set()
    eventually(lambda: len(callers._idle) == 2, "the return of both")


def test_one_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruptions, "_IDLE_SECONDS", 0.01)
    done: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
    callers = _Callers()
    callers.do(lambda: done.put(threading.current_thread()))
    thread = done.get()
    eventually(lambda: not thread.is_alive(), "its end")
    assert callers._idle == []


def test_a_fork_has_threads_of_its_own() -> None:
    callers = _Callers()
    first = thread_of_a_call(callers)
    callers._process = -1
    assert thread_of_a_call(callers) is not first


def test_what_was_there_before_the_steps_is_collected_after_them() -> None:
    before = gc.get_freeze_count() > 0
    with _set_aside():
        with _set_aside():
            assert gc.get_freeze_count() > 0
        assert gc.get_freeze_count() > 0
    assert (gc.get_freeze_count() > 0) is before


def test_a_resource_of_which_nothing_is_said_is_made_once() -> None:
    assert unsaid(SlurmQueueConfig) is unsaid(SlurmQueueConfig)
    assert unsaid(SlurmQueueConfig) == SlurmQueueConfig()
