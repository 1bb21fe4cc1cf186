"""The arrays that a call follows: what their tasks say goes to Dagster's log at once, and their ends wait in a line."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.events import (
    Broken,
    Ended,
    Event,
    Listener,
    ManySubscriptions,
    Notice,
    Output,
    Started,
    StateChanged,
    Waiting,
)
from dagster_slurm.job.waiting import line_of
from dagster_slurm.pipes.arrays import ArrayJob
from dagster_slurm.pipes.elements import ElementSession
from dagster_slurm.pipes.step import Step
from dagster_slurm.pipes.step_logs import StepLogs

_EVENT_SECONDS = 0.5


@dataclass
class FollowedArray:
    """One array.

    Args:
        array: The array.
        left: Its tasks that have not ended.
        give_up_at: When to cancel it if none of them has started, by the monotonic clock; None for never.
        has_failures: Whether one of them has failed.
        gave_up_waiting: Whether it was cancelled because it waited too long.
    """

    array: ArrayJob
    left: set[int]
    give_up_at: float | None
    has_failures: bool = False
    gave_up_waiting: bool = False
    told: set[str] = field(default_factory=set)


@dataclass
class Task:
    """One task of an array.

    Args:
        of: Its array.
        number: Its number in it.
        partition: The partition it is for.
        listener: Where its events go.
        session: What its payload says.
    """

    of: FollowedArray
    number: int
    partition: str
    listener: Listener
    session: ElementSession
    has_started: bool = False

    @property
    def job_id(self) -> str:
        """Slurm's id, "123_7"."""
        return self.of.array.handle_of(self.number).job_id

    @property
    def place(self) -> str:
        """Its directory."""
        return self.of.array.handle_of(self.number).directory.place


class FollowedArrays:
    """What a call follows, all on one thread.

    Args:
        step: The step.
        connection: The cluster.
    """

    def __init__(self, step: Step, connection: ClusterConnection) -> None:
        self._step = step
        self._watcher = connection.watcher
        self._line = ManySubscriptions()
        self._logs = StepLogs()
        self._tasks: dict[int, Task] = {}
        self._ends: deque[tuple[int, Ended]] = deque()
        self._serial = 0

    def __len__(self) -> int:
        """How many tasks have not ended."""
        return len(self._tasks)

    @property
    def partitions(self) -> set[str]:
        """The partitions of these tasks."""
        return {task.partition for task in self._tasks.values()}

    @property
    def running(self) -> int:
        """How many tasks have started, and not ended."""
        return sum(task.has_started for task in self._tasks.values())

    def add(self, array: ArrayJob, partitions: Mapping[int, str], *, give_up_at: float | None) -> None:
        """Follow an array.

        Args:
            array: The array.
            partitions: The partitions to follow, by the number of the task.
            give_up_at: When to cancel it if nothing of it has started.
        """
        of = FollowedArray(array, set(partitions), give_up_at)
        watched = []
        for number, partition in partitions.items():
            self._serial += 1
            handle, listener = array.handle_of(number), self._line.of(self._serial)
            session = self._step.pipes.element(partition, messages_path=handle.directory.messages, logs=self._logs)
            self._tasks[self._serial] = Task(of, number, partition, listener, session)
            watched.append((handle, listener))
        self._watcher.watch_all(watched)

    def take_in(self) -> None:
        """Pass on what was told, all of it, after a short wait for the first; ends are left to `next_end`.

        An end costs some ten milliseconds in Dagster's storage: with hundreds at once, lines would be late.
        """
        news = self._line.get(0.0 if self._ends else _EVENT_SECONDS)
        while news is not None:
            serial, event = news
            if isinstance(event, Ended):
                self._ends.append((serial, event))
            elif serial in self._tasks:
                self._pass_on(self._tasks[serial], event)
            news = self._line.get(0.0)

    def next_end(self) -> tuple[Task, Ended] | None:
        """A task that has ended, with all that it said passed on; it is followed no more."""
        while self._ends:
            serial, ended = self._ends.popleft()
            task = self._tasks.pop(serial, None)
            if task is not None:
                task.of.left.discard(task.number)
                return task, ended
        return None

    def forget(self, array: ArrayJob | None = None) -> dict[int, str]:
        """Follow an array, or all of them, no more; the jobs go on. What was followed, by the number of the task."""
        gone = {serial: task for serial, task in self._tasks.items() if array is None or task.of.array is array}
        self._watcher.forget(*(task.listener for task in gone.values()))
        for serial in gone:
            del self._tasks[serial]
        return {task.number: task.partition for task in gone.values()}

    def late(self) -> list[FollowedArray]:
        """Arrays whose time to start is over, each once."""
        started = {id(task.of) for task in self._tasks.values() if task.has_started}
        arrays = {id(task.of): task.of for task in self._tasks.values() if task.of.give_up_at is not None}
        found = []
        for key, array in arrays.items():
            is_late = array.give_up_at is not None and time.monotonic() >= array.give_up_at
            if key in started or is_late:
                array.give_up_at = None
            if is_late and key not in started:
                array.gave_up_waiting = True
                found.append(array)
        return found

    def _pass_on(self, task: Task, event: Event) -> None:
        if isinstance(event, Output):
            task.session.take(event.stream, event.data)
        elif isinstance(event, Started):
            task.has_started = True
            if event.restart:
                task.session.reader.restart()
        elif isinstance(event, (Waiting, StateChanged)):
            self._tell_once(task, *line_of(task.of.array.handle.job_id, event))
        elif isinstance(event, Notice):
            self._tell_once(task, event.level, event.text)
        elif isinstance(event, Broken):
            raise event.error

    def _tell_once(self, task: Task, level: str, text: str) -> None:
        """What holds for an array is said once, and not by every task of it."""
        if text not in task.of.told:
            task.of.told.add(text)
            self._step.log.log(level, text)
