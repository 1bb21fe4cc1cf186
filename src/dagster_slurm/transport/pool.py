"""A few channels, opened when needed, shared by the threads of this process; and where processes share things."""

from __future__ import annotations

import fcntl
import os
import random
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dagster_slurm.errors import DagsterSlurmError, TransportTimeoutError
from dagster_slurm.transport.channel import ShellChannel

_LOOK_SECONDS = 0.5


class ChannelPool:
    """Lends channels, one to a borrower at a time.

    Args:
        open_channel: Opens one more.
        size: How many may be open at once, asked anew each time. A borrower waits when all are lent.
        keep: Whether channels that nobody has lent may stay open; None if they always may.
    """

    def __init__(
        self,
        open_channel: Callable[[], ShellChannel],
        *,
        size: Callable[[], int],
        keep: Callable[[], bool] | None = None,
    ) -> None:
        self._open_channel = open_channel
        self._keep = keep
        self._size = size
        self._lent = 0
        self._queue: deque[object] = deque()
        self._idle: list[ShellChannel] = []
        self._changed = threading.Condition()
        self._tending: threading.Thread | None = None
        self._opening: threading.Thread | None = None

    @contextmanager
    def lend(self) -> Iterator[ShellChannel]:
        """A channel to talk through; it goes back unless it broke."""
        with self._place():
            channel = self.take() or self._open_channel()
            try:
                yield channel
            finally:
                self._give_back(channel)

    @contextmanager
    def lend_idle(self) -> Iterator[ShellChannel | None]:
        """One that is open, at once, whatever the size; None if there is none: one is opened for the next time."""
        channel = self.take()
        if channel is None:
            self._open_beside()
            yield None
            return
        self._count(1)
        try:
            yield channel
        finally:
            self._count(-1)
            self._give_back(channel)

    def _count(self, more: int) -> None:
        with self._changed:
            self._lent += more
            self._changed.notify_all()

    def _open_beside(self) -> None:
        with self._changed:
            if self._opening is None or not self._opening.is_alive():
                self._opening = threading.Thread(target=self._open_one, name="dagster-slurm-channel", daemon=True)
                self._opening.start()

    def _open_one(self) -> None:
        # Why there is none, those are told who cannot do without.
        with suppress(DagsterSlurmError):
            self._give_back(self._open_channel())

    @property
    def is_used(self) -> bool:
        """Whether one is open."""
        with self._changed:
            return bool(self._lent or self._idle)

    def close(self) -> None:
        """Close what is idle."""
        with self._changed:
            idle, self._idle = self._idle, []
        for channel in idle:
            channel.close()

    @contextmanager
    def _place(self) -> Iterator[None]:
        """The right to one channel, first come, first served.

        A condition wakes who waits and keeps no place for it: who sends piece after piece, or asks again and again,
        would take the only channel back before the thread it has woken could.
        """
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] is ticket and self._lent < self._size())
                self._lent += 1
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            self._count(-1)

    def take(self) -> ShellChannel | None:
        """A channel that is idle, for one who has a place already; None if there is none."""
        with self._changed:
            while self._idle:
                channel = self._idle.pop()
                if channel.usable:
                    return channel
                channel.close()
        return None

    def _give_back(self, channel: ShellChannel) -> None:
        if not channel.usable:
            channel.close()
            return
        with self._changed:
            self._idle.append(channel)
        if self._keep is None:
            return
        if not self._keep():
            self.close()
            return
        with self._changed:
            # Not alive behind a fork.
            if self._tending is None or not self._tending.is_alive():
                self._tending = threading.Thread(target=self._tend, name="dagster-slurm-idle-channels", daemon=True)
                self._tending.start()

    def _tend(self) -> None:
        """Close what is idle once it may not stay open.

        Whoever waits for a lock of another process, or for a job, keeps channels that it does not use; eight of them
        stood in the way of the one they waited for.
        """
        while True:
            time.sleep(_LOOK_SECONDS)
            with self._changed:
                if not self._idle:
                    self._tending = None
                    return
            if self._keep is not None and not self._keep():
                self.close()


_POLL_SECONDS = 0.02


class Token:
    """The right to one channel."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Give it back; again is no error."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class ChannelBudget:
    """The channels of one shared connection.

    Args:
        path: Path of the connection's socket; the lock files lie beside it.
        size: How many channels may be open at once, over all processes.
    """

    def __init__(self, path: Path, *, size: int) -> None:
        self._slots = [path.with_name(f"{path.name}.{number}") for number in range(size)]
        self._waiting = path.with_name(f"{path.name}.waiting")

    def acquire(self, *, timeout_seconds: float) -> Token:
        """Wait for a free channel.

        Raises:
            TransportTimeoutError: None became free in time.
        """
        token = self._try()
        if token is not None:
            return token
        deadline = time.monotonic() + timeout_seconds
        with self.waiting():
            while time.monotonic() < deadline:
                token = self._try()
                if token is not None:
                    return token
                time.sleep(_POLL_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311
        raise TransportTimeoutError(f"None of {len(self._slots)} channels became free in {timeout_seconds:.0f} s")

    def spare(self) -> Token:
        """A channel that others can do without; half of them are never given for that.

        Raises:
            TransportTimeoutError: There is none.
        """
        token = self._try(self._slots[: len(self._slots) // 2])
        if token is None:
            raise TransportTimeoutError("No channel is to spare")
        return token

    def contended(self) -> bool:
        """Whether some process waits for a channel: whoever has one to spare closes it."""
        try:
            descriptor = open_lock(self._waiting)
        except FileNotFoundError:
            # The directory of the connection is gone, and with it whoever could wait there.
            return False
        try:
            return not try_lock(descriptor)
        finally:
            os.close(descriptor)

    def _try(self, slots: Sequence[Path] | None = None) -> Token | None:
        slots = self._slots if slots is None else slots
        for slot in random.sample(slots, len(slots)):
            descriptor = open_lock(slot)
            if try_lock(descriptor):
                return Token(descriptor)
            os.close(descriptor)
        return None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Be seen to wait: who holds a channel that is idle closes it."""
        descriptor = open_lock(self._waiting)
        try:
            # Shared: any number may wait. Whoever looks whether somebody does holds it for an instant only.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)


def open_lock(path: Path) -> int:
    """A file to lock, made if it is not there, that nobody else can read."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take a lock of flock(2), if it is free."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class ForeignDirectoryError(PermissionError):
    """A directory is not this user's alone."""


def make_own(directory: Path) -> None:
    """Make a directory, and what is missing above it, for this user alone, whatever the umask.

    Raises:
        ForeignDirectoryError: It is there, and not this user's alone.
        OSError: It cannot be made.
    """
    for each in reversed((directory, *directory.parents)):
        if not os.path.lexists(each):
            each.mkdir(mode=0o700, exist_ok=True)
    refuse_foreign(directory)


def refuse_foreign(directory: Path) -> None:
    """Refuse a directory that somebody else has made, or may write to, and a link in its place.

    Raises:
        ForeignDirectoryError: It is not this user's alone.
        FileNotFoundError: It is not there.
    """
    found = directory.lstat()
    if found.st_uid != os.getuid():
        raise ForeignDirectoryError(f"{directory} belongs to somebody else, the user with the number {found.st_uid}")
    if not stat.S_ISDIR(found.st_mode):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "no directory"
        raise ForeignDirectoryError(f"{directory} is {kind}")
    if found.st_mode & 0o022:
        raise ForeignDirectoryError(f"{directory} can be written to by others (mode 0{stat.S_IMODE(found.st_mode):o})")


def why_foreign(directory: Path) -> str:
    """Why a directory is not this user's alone, as a sentence; empty if it is, or is not there."""
    try:
        refuse_foreign(directory)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error)
    return ""
