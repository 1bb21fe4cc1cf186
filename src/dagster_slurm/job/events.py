"""What a watcher tells whoever waits for a job."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from dagster_slurm.cluster.description import GIVEN_BACK, EndMark
from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.slurm.job_id import title_of
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry
from dagster_slurm.slurm.reasons import Reason, parse_reason
from dagster_slurm.slurm.states import JobState, StatePhase
from dagster_slurm.text import duration_words

_MAX_PENDING_BYTES = 8 << 20


@dataclass(frozen=True)
class Output:
    """Bytes of `stdout`, `stderr` or `messages`, in the order they were written."""

    stream: str
    data: bytes


@dataclass(frozen=True)
class Started:
    """The payload starts on its nodes. More than one of these: the job was requeued.

    Args:
        nodes: Their names, in Slurm's compact form.
        restart: How often the job was requeued before.
        step: Of a step of a session, Slurm's number of it.
    """

    nodes: str
    restart: int
    step: str = ""


@dataclass(frozen=True)
class Waiting:
    """The job waits in the queue. Told again when the reason or the expected start changes.

    Args:
        reason: Why.
        expected_start: When Slurm expects to start it, UTC; None if Slurm does not say.
    """

    reason: Reason
    expected_start: datetime | None


@dataclass(frozen=True)
class QueueLeft:
    """When Slurm started the job, told once for each start, soon after `Started`.

    Args:
        start_time: By Slurm's clock, UTC.
        waited_seconds: From its submission, or from its requeue, to that time.
    """

    start_time: datetime
    waited_seconds: float


@dataclass(frozen=True)
class StateChanged:
    """The job has come into a state that a person wants to know of: suspended, resumed, requeued.

    Args:
        state: The state.
        before: The state that was told of before, if this one ends it.
    """

    state: JobState
    before: JobState | None = None


@dataclass(frozen=True)
class Notice:
    """Something a person wants to know; `warning` or `info`."""

    text: str
    level: str = "info"


@dataclass(frozen=True)
class Ended:
    """The end of the job, with all its output told before.

    Args:
        state: The state it ended in.
        record: What sacct knows of it, if it answered.
        end_mark: The end line of its newest incarnation, if it wrote one.
        nodes: Its nodes, in Slurm's compact form; None if it has not begun.
        reason: squeue's last word on why it waited or ended, if it said one.
        unread_bytes: How much of each stream has been written, and could not be read; only of those with something.
        is_removed: Whether its run directory was not there any more.
        step: Of a step of a session, Slurm's number of it; empty if it has not begun.
        over_status: With what status the session's dispatcher says that a step is over; None without its word.
        was_accounting_asked: Whether sacct was asked about it.
    """

    state: JobState
    record: AccountingRecord | None
    end_mark: EndMark | None
    nodes: str | None
    reason: str | None = None
    unread_bytes: Mapping[str, int] = field(default_factory=dict)
    is_removed: bool = False
    step: str = ""
    over_status: int | None = None
    was_accounting_asked: bool = False

    @property
    def is_success(self) -> bool:
        """Whether Slurm and its own end line agree that it succeeded."""
        return self.state.is_success and self.end_mark is not None

    @property
    def is_given_back(self) -> bool:
        """Whether it is a step that has not begun, and may begin in another allocation."""
        has_begun = self.nodes is not None or self.end_mark is not None
        return not has_begun and self.over_status in (None, GIVEN_BACK)

    @property
    def is_wordless(self) -> bool:
        """Whether it completed, as Slurm says, and none of its own lines was seen."""
        return self.state.is_success and self.end_mark is None

    @property
    def is_lost(self) -> bool:
        """Whether it has failed, as Slurm says, and nothing tells that its payload has."""
        has_word = self.end_mark is not None or (self.record is not None and self.record.script_exit_code is not None)
        return self.state is JobState.FAILED and not has_word


@dataclass(frozen=True)
class Broken:
    """The watcher cannot go on with this job; nothing follows about the job itself."""

    error: DagsterSlurmError


QueueNews = Waiting | QueueLeft | StateChanged
Event = Output | Started | QueueNews | Notice | Ended | Broken


class ManySubscriptions:
    """One bounded line of events from the watcher's thread, of many jobs, each with a number."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        self._pending_bytes = 0
        self._lock = threading.Lock()

    def of(self, number: int) -> Listener:
        """Whoever is told the events of one of them."""
        return Listener(self, number)

    @property
    def room_bytes(self) -> int:
        """How many more bytes may be read for any of them before the waiting side has caught up."""
        with self._lock:
            return max(0, _MAX_PENDING_BYTES - self._pending_bytes)

    def put(self, number: int, event: Event) -> None:
        """Tell one event of a job."""
        if isinstance(event, Output):
            with self._lock:
                self._pending_bytes += len(event.data)
        self._events.put((number, event))

    def get(self, timeout_seconds: float) -> tuple[int, Event] | None:
        """The next event and whose it is, or None if there is none in time."""
        try:
            number, event = self._events.get(timeout=timeout_seconds) if timeout_seconds else self._events.get_nowait()
        except queue.Empty:
            return None
        if isinstance(event, Output):
            with self._lock:
                self._pending_bytes -= len(event.data)
        return number, event


class Listener:
    """Is told the events of one job, and puts them in the line of many."""

    def __init__(self, line: ManySubscriptions, number: int) -> None:
        self._line = line
        self._number = number

    @property
    def room_bytes(self) -> int:
        """How many more bytes may be read for it before it has caught up."""
        return self._line.room_bytes

    def put(self, event: Event) -> None:
        """Tell one event."""
        self._line.put(self._number, event)


class Subscription(Listener):
    """A bounded line of events from the watcher's thread to the one that waits."""

    def __init__(self) -> None:
        super().__init__(ManySubscriptions(), 0)

    def get(self, timeout_seconds: float) -> Event | None:
        """The next event, or None if there is none in time."""
        news = self._line.get(timeout_seconds)
        return None if news is None else news[1]


# An estimate is news if it moves by more than this, and by more than a share of what is left.
_MOVED_SECONDS = 60.0
_MOVED_SHARE = 0.1
# Jobs go back and forth between reasons ("Resources", "Priority"), and backfill estimates anew each half a minute.
_REASON_AGAIN_SECONDS = 600.0
_ESTIMATE_AGAIN_SECONDS = 300.0
# Slurm names no reason before its first look, and between two looks.
_NAMELESS = parse_reason(None).words

_PAUSED = frozenset({JobState.SUSPENDED, JobState.STOPPED})
_TOLD = _PAUSED | {JobState.CONFIGURING, JobState.POWER_UP_NODE}
_REQUEUES = frozenset(
    {JobState.REQUEUED, JobState.REQUEUE_FED, JobState.REQUEUE_HOLD, JobState.SPECIAL_EXIT, JobState.EXPEDITING}
)


class _ReasonKey(NamedTuple):
    """What makes two reasons the same news: not the list of nodes, which may be long and change each minute."""

    code: str
    words: str


class QueueTeller:
    """Knows what was told of one job, so that each change is told once."""

    def __init__(self) -> None:
        self._state: JobState | None = None
        self._was_active = False
        self._told: Waiting | None = None
        self._told_at = 0.0
        self._reasons_told: dict[_ReasonKey, float] = {}
        self._looks = 0

    def news(self, entry: QueueEntry, *, has_run: bool, now: float, utc: datetime) -> list[QueueNews]:
        """What is to be told after an answer of squeue.

        Args:
            entry: The answer.
            has_run: Whether the payload has run, and ended, since the job was last seen waiting.
            now: Seconds from some fixed moment.
            utc: The time of day.
        """
        if entry.state is JobState.COMPLETING:
            # Between a start and the queue, or the end.
            return []
        waits = entry.state.phase is StatePhase.WAITING
        change = self._change(entry.state, requeued=waits and (has_run or self._was_active))
        self._was_active = entry.state.phase is StatePhase.ACTIVE
        if not waits:
            self._forget()
            return [change] if change else []
        waiting = self._waiting(entry, now, utc)
        return [each for each in (change, waiting) if each is not None]

    def _change(self, state: JobState, *, requeued: bool) -> StateChanged | None:
        before = self._state
        if requeued:
            self._state = state if state in _REQUEUES else JobState.REQUEUED
            return StateChanged(self._state)
        if state in _TOLD and state is not before:
            self._state = state
            return StateChanged(state)
        if state is JobState.RUNNING:
            self._state = None
            return StateChanged(state, before) if before in _PAUSED else None
        return None

    def _forget(self) -> None:
        self._told, self._looks = None, 0
        self._reasons_told.clear()

    def _waiting(self, entry: QueueEntry, now: float, utc: datetime) -> Waiting | None:
        reason = parse_reason(entry.reason)
        self._looks += 1
        if reason.words == _NAMELESS and (self._told is not None or self._looks == 1):
            return None
        expected = _to_come(entry.start_time, utc)
        if not self._is_new_reason(reason, now) and not self._is_new_estimate(expected, now, utc):
            return None
        if reason.needs_action:
            # Whatever it waits for after that is told, also if it was told before.
            self._reasons_told.clear()
        self._reasons_told[_key(reason)] = self._told_at = now
        self._told = Waiting(reason, expected)
        return self._told

    def _is_new_reason(self, reason: Reason, now: float) -> bool:
        if self._told is not None and _key(reason) == _key(self._told.reason):
            return False
        last = None if reason.needs_action else self._reasons_told.get(_key(reason))
        return last is None or now - last >= _REASON_AGAIN_SECONDS

    def _is_new_estimate(self, expected: datetime | None, now: float, utc: datetime) -> bool:
        if self._told is None or expected is None:
            return False
        before = self._told.expected_start
        if before is None:
            return True
        left = max(0.0, (before - utc).total_seconds())
        moved = abs((expected - before).total_seconds())
        return moved > max(_MOVED_SECONDS, _MOVED_SHARE * left) and now - self._told_at >= _ESTIMATE_AGAIN_SECONDS


def line_of(job_id: str, news: QueueNews) -> tuple[str, str]:
    """The level and the line for a run's log."""
    job = title_of(job_id)
    if isinstance(news, QueueLeft):
        started = f"{news.start_time:%Y-%m-%d %H:%M:%S} UTC"
        return (
            "info",
            f"{job} was started by Slurm at {started}, after {duration_words(news.waited_seconds)} in the queue",
        )
    if isinstance(news, StateChanged):
        return "info", f"{job} {'goes on' if news.before in _PAUSED else news.state.meaning}"
    reason = news.reason
    named = reason.code if reason.detail is None else f"{reason.code}: {reason.detail}"
    line = f"{job} waits: {reason.words} ({named}); {reason.ends.replace('{job}', job_id)}"
    if reason.needs_action:
        return "warning", line
    expected = "unknown" if news.expected_start is None else f"{news.expected_start:%Y-%m-%d %H:%M} UTC"
    return "info", f"{line}. Expected start: {expected}"


def _key(reason: Reason) -> _ReasonKey:
    return _ReasonKey(reason.code, reason.words)


def _to_come(expected: datetime | None, utc: datetime) -> datetime | None:
    """An estimate that has gone by says nothing; that of a cluster whose clock is a little behind does."""
    return None if expected is None or expected < utc - timedelta(seconds=_MOVED_SECONDS) else expected
