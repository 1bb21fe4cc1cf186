"""The units that a call follows: what their payloads say goes to Dagster at once, and their ends wait in a line.

Of many units, a thread beside passes on what they say: what the step's own thread does about an end, which is to fetch
outputs, to write to Dagster's storage and to submit again, holds no line of the others up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from dagster_slurm.job.events import (
    Broken,
    Ended,
    Event,
    Listener,
    ManySubscriptions,
    Notice,
    Output,
    QueueLeft,
    Started,
    StateChanged,
    Waiting,
    line_of,
)
from dagster_slurm.pipes.session import UnitSession
from dagster_slurm.pipes.step import Step
from dagster_slurm.pipes.step_logs import StepLogs, Teller, with_streams_of_this_thread
from dagster_slurm.run_directory import JobHandle
from dagster_slurm.slurm.job_id import JobId, title_of
from dagster_slurm.work.carriers import Carrier, Carriers

_EVENT_SECONDS = 0.5
_NOBODY = 0
_LONG_SECONDS = 60.0


@dataclass
class FollowedCarrier:
    """A carrier, and what is known of its units.

    Args:
        carrier: The carrier.
        left: The units that have not ended.
        give_up_at: When to cancel it if nothing of it has started, by the monotonic clock; None for never.
        has_started: Whether something of it has.
        gave_up_waiting: Whether it was cancelled because it waited too long.
    """

    carrier: Carrier
    left: set[str]
    give_up_at: float | None
    has_started: bool = False
    gave_up_waiting: bool = False
    told: set[str] = field(default_factory=set)


@dataclass
class FollowedUnit:
    """One unit.

    Args:
        of: What executes it.
        unit: The unit.
        element: Its number in the carrier; None for one that has no other.
        handle: Its job, or the task of it.
        listener: Where its events go.
        session: What its payload says.
        has_started: Whether it has.
        has_waited: Whether a line has said that it waits, since it ran the last time.
    """

    of: FollowedCarrier
    unit: str
    element: int | None
    handle: JobHandle
    listener: Listener
    session: UnitSession
    has_started: bool = False
    has_waited: bool = False

    @property
    def is_own_job(self) -> bool:
        """Whether a job executes it and nothing else, or it is a component of one."""
        return (self.element is None or self.of.carrier.is_one_job) and bool(self.handle.job_id)


class Followed:
    """What a call follows.

    Args:
        step: The step.
        carriers: Where its carriers are.
        teller: Writes the lines about them.
        beside: Whether what is said is passed on by a thread beside; else by the one that calls `take_in`.
    """

    def __init__(self, step: Step, carriers: Carriers, teller: Teller, *, beside: bool = False) -> None:
        self._step = step
        self._carriers = carriers
        self._teller = teller
        self._line = ManySubscriptions()
        self._logs = StepLogs()
        # Only the step's own thread changes it.
        self._units: dict[int, FollowedUnit] = {}
        self._ends: deque[tuple[int, Ended]] = deque()
        self._has_news = threading.Event()
        self._fault: BaseException | None = None
        self._is_over = False
        self._serial = _NOBODY
        self._beside = beside
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """How many units have not ended."""
        return len(self._units)

    @property
    def units(self) -> set[str]:
        """These units."""
        return {each.unit for each in self._units.values()}

    @property
    def running(self) -> int:
        """How many have started, and not ended."""
        return sum(each.has_started for each in self._units.values())

    def add(self, carrier: Carrier, *, give_up_at: float | None) -> None:
        """Follow the units of a carrier."""
        of = FollowedCarrier(carrier, set(carrier.left), give_up_at)
        watched = []
        for element, unit in carrier.elements():
            self._serial += 1
            handle, listener = carrier.handle_of(element), self._line.of(self._serial)
            session = self._step.pipes.session(unit, messages_path=handle.directory.messages, logs=self._logs)
            self._units[self._serial] = FollowedUnit(of, unit, element, handle, listener, session)
            watched.append((carrier, handle, listener))
        if self._beside and self._thread is None:
            work = with_streams_of_this_thread(self._pass_on_all)
            self._thread = threading.Thread(target=work, name="dagster-slurm-passing-on", daemon=True)
            self._thread.start()
        self._carriers.watch(watched)

    def take_in(self) -> None:
        """Pass on what was told, all of it, after a short wait for the first; ends are left to `next_end`.

        An end costs some ten milliseconds in Dagster's storage: with hundreds at once, lines would be late. Where a
        thread beside passes it on, this waits a while for an end.

        Raises:
            DagsterSlurmError: The watcher cannot go on with one of them.
            OSError: What was told could not be passed on.
        """
        if self._thread is not None:
            if not self._ends:
                self._has_news.wait(_EVENT_SECONDS)
            self._has_news.clear()
            if self._fault is not None:
                raise self._fault
            return
        is_news = self._pass_on_next(0.0 if self._ends else _EVENT_SECONDS)
        while is_news:
            is_news = self._pass_on_next(0.0)

    def close(self) -> None:
        """Pass on nothing more: when this returns, nothing is being passed on."""
        self._is_over = True
        if self._thread is not None:
            self._line.put(_NOBODY, Notice(""))
            self._thread.join()

    def _pass_on_all(self) -> None:
        """On the thread beside."""
        try:
            while not self._is_over:
                self._pass_on_next(_EVENT_SECONDS)
        except BaseException as fault:  # noqa: BLE001 - raised again by the step's own thread
            self._fault = fault
            self._has_news.set()

    def _pass_on_next(self, timeout_seconds: float) -> bool:
        """Pass on one thing that was told, if there is one in time."""
        news = self._line.get(timeout_seconds)
        if news is None:
            return False
        serial, event = news
        unit = self._units.get(serial)
        if unit is not None and isinstance(event, Ended):
            unit.session.finish()
            self._ends.append((serial, event))
            self._has_news.set()
        elif unit is not None:
            self._pass_on(unit, event)
        return True

    def next_end(self) -> tuple[FollowedUnit, Ended] | None:
        """A unit that has ended, with all that it said passed on; it is followed no more."""
        while self._ends:
            serial, ended = self._ends.popleft()
            unit = self._units.pop(serial, None)
            if unit is not None:
                unit.of.left.discard(unit.unit)
                return unit, ended
        return None

    def forget(self, carrier: Carrier | None = None) -> tuple[str, ...]:
        """Follow a carrier, or all of them, no more; the jobs go on. The units that were followed."""
        gone = {serial: each for serial, each in self._units.items() if carrier is None or each.of.carrier is carrier}
        self._carriers.forget([each.listener for each in gone.values()])
        for serial in gone:
            del self._units[serial]
        return tuple(each.unit for each in gone.values())

    def late(self) -> Iterable[Carrier]:
        """The carriers of which nothing has started in time; each is named once."""
        of_units = {id(each.of): each.of for each in self._units.values() if each.of.give_up_at is not None}
        for of in of_units.values():
            if of.has_started or (of.give_up_at is not None and time.monotonic() >= of.give_up_at):
                of.give_up_at, of.gave_up_waiting = None, not of.has_started
                if of.gave_up_waiting:
                    yield of.carrier

    def _pass_on(self, followed: FollowedUnit, event: Event) -> None:
        if isinstance(event, Output):
            followed.session.take(event.stream, event.data)
        elif isinstance(event, Started):
            self._started(followed, event)
        elif isinstance(event, (Waiting, StateChanged)):
            followed.has_waited = True
            self._tell_once(followed, *line_of(followed.of.carrier.handle.job_id, event))
        elif isinstance(event, QueueLeft):
            # Each line is an event in Dagster's storage: of a job that began at once, it says nothing new.
            if followed.has_waited or event.waited_seconds >= _LONG_SECONDS:
                self._tell_of_own_job(followed, *line_of(followed.handle.job_id, event))
            followed.has_waited = False
        elif isinstance(event, Notice):
            self._tell_once(followed, event.level, event.text)
        elif isinstance(event, Broken):
            raise event.error

    def _started(self, followed: FollowedUnit, event: Started) -> None:
        followed.has_started = followed.of.has_started = True
        if event.restart:
            followed.session.reader.restart()
        again = f" again (restart {event.restart}: the job was requeued)" if event.restart else ""
        if followed.is_own_job:
            carrier = followed.of.carrier
            own = followed.element is None
            title = carrier.title if own else f"{followed.unit}: {title_of(followed.handle.job_id)}"
            number = _step_number(followed.handle, event)
            message, nodes = f"{title} runs on {event.nodes}{number}{again}", {"nodes": event.nodes}
            self._teller.tell(lambda: self._step.tell(message, nodes, ends=carrier.wait))

    def _tell_of_own_job(self, followed: FollowedUnit, level: str, text: str) -> None:
        """What would be a line for each task of an array is none; of components, one is enough."""
        if followed.is_own_job and not followed.element:
            self._tell(level, text)

    def _tell_once(self, followed: FollowedUnit, level: str, text: str) -> None:
        """What holds for an array is said once, and not by every task of it."""
        if followed.element is None:
            self._tell(level, text)
        elif text not in followed.of.told:
            followed.of.told.add(text)
            self._tell(level, text)

    def _tell(self, level: str, text: str) -> None:
        self._teller.tell(lambda: self._step.log.log(level, text))


def _step_number(handle: JobHandle, started: Started) -> str:
    """Slurm's number of a step of a session, which until now was called after its request."""
    if handle.session is None or not started.step:
        return ""
    return f" as step {JobId.parse(handle.job_id).in_queue}.{started.step}"


# Longer than KillWait, 30 s (slurm.conf(5)).
_SLURM_SECONDS = 60.0
_LOOK_SECONDS = 0.5


def cancelled(step: Step, carriers: Carriers, followed: Followed, follow_on: Callable[[], None]) -> str:
    """Take back every carrier, wait for Slurm a while, and say what came of it.

    Args:
        step: The step.
        carriers: Where its jobs are.
        followed: Those that are followed. What they say goes on to Dagster until they have ended.
        follow_on: Passes it on.
    """
    step.log.info("The run was terminated: cancelling its Slurm jobs")
    withdrawal = carriers.withdraw()
    until = time.monotonic() + (0.0 if withdrawal.undone else _SLURM_SECONDS)
    while followed and time.monotonic() < until:
        follow_on()
    left = carriers.left_of(withdrawal)
    while left and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
        left = carriers.left_of(withdrawal)
    job_ids = [job.job_id for job in withdrawal.jobs]
    names = f"Slurm job{'s' if len(job_ids) > 1 else ''} {', '.join(job_ids)}" if job_ids else "no job that is known"
    if left:
        carriers.leave(withdrawal, left)
        return f"{names} was to be cancelled, and that is not confirmed: {left}"
    return f"{names} was cancelled" if job_ids else carriers.NOTHING
