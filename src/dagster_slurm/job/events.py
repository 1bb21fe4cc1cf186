"""What a watcher tells whoever waits for a job."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dagster_slurm.cluster.status_file import EndMark
from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.slurm.output import AccountingRecord
from dagster_slurm.slurm.reasons import Reason
from dagster_slurm.slurm.states import JobState

_MAX_PENDING_BYTES = 8 << 20


@dataclass(frozen=True)
class Output:
    """Bytes of `stdout`, `stderr` or `messages`, in the order they were written."""

    stream: str
    data: bytes


@dataclass(frozen=True)
class Started:
    """The payload starts on a node. More than one of these: the job was requeued."""

    node: str
    restart: int


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
        node: The node its batch script ran on last.
        reason: squeue's last word on why it waited or ended, if it said one.
    """

    state: JobState
    record: AccountingRecord | None
    end_mark: EndMark | None
    node: str | None
    reason: str | None = None

    @property
    def is_success(self) -> bool:
        """Whether Slurm and its own end line agree that it succeeded."""
        return self.state.is_success and self.end_mark is not None

    @property
    def is_wordless(self) -> bool:
        """Whether it completed, as Slurm says, and none of its own lines was seen."""
        return self.state.is_success and self.end_mark is None


@dataclass(frozen=True)
class Broken:
    """The watcher cannot go on with this job; nothing follows about the job itself."""

    error: DagsterSlurmError


QueueNews = Waiting | QueueLeft | StateChanged
Event = Output | Started | QueueNews | Notice | Ended | Broken


class Listener(Protocol):
    """Whoever is told the events of one job."""

    @property
    def room_bytes(self) -> int:
        """How many more bytes may be read for it before it has caught up."""
        ...

    def put(self, event: Event) -> None:
        """Tell one event."""
        ...


class ManySubscriptions:
    """One bounded line of events from the watcher's thread, of many jobs, each with a number."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        self._pending_bytes = 0
        self._lock = threading.Lock()

    def of(self, number: int) -> Listener:
        """The end that is told the events of one of them."""
        return _OneOfMany(self, number)

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


class _OneOfMany:
    """The end of one job."""

    def __init__(self, line: ManySubscriptions, number: int) -> None:
        self._line = line
        self._number = number

    @property
    def room_bytes(self) -> int:
        return self._line.room_bytes

    def put(self, event: Event) -> None:
        self._line.put(self._number, event)


class Subscription(_OneOfMany):
    """A bounded line of events from the watcher's thread to the one that waits."""

    def __init__(self) -> None:
        super().__init__(ManySubscriptions(), 0)

    def get(self, timeout_seconds: float) -> Event | None:
        """The next event, or None if there is none in time."""
        news = self._line.get(timeout_seconds)
        return None if news is None else news[1]
