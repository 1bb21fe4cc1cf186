"""How many channels one shared connection carries, however many processes share it.

A server refuses sessions beyond `MaxSessions` (sshd_config(5), 10 by default) on one connection. Each channel
holds one of a few lock files while it is open; locks end with the process that holds them.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster_slurm.errors import TransportTimeoutError

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

    def contended(self) -> bool:
        """Whether some process waits for a channel: whoever has one to spare closes it."""
        try:
            descriptor = _open(self._waiting)
        except FileNotFoundError:
            # The directory of the connection is gone, and with it whoever could wait there.
            return False
        try:
            return not _lock(descriptor, fcntl.LOCK_EX)
        finally:
            os.close(descriptor)

    def _try(self) -> Token | None:
        for slot in random.sample(self._slots, len(self._slots)):
            descriptor = _open(slot)
            if _lock(descriptor, fcntl.LOCK_EX):
                return Token(descriptor)
            os.close(descriptor)
        return None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Be seen to wait: who holds a channel that is idle closes it."""
        descriptor = _open(self._waiting)
        try:
            # Shared: any number may wait. Whoever looks whether somebody does holds it for an instant only.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
