"""What the processes of a user share on this machine of a cluster's answers, and what Slurm has said of requests.

Times are seconds since boot, asleep or not, which all processes of a machine have in common; the era names the boot.
Locks (flock(2)) end with the process that holds them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from dagster_slurm.errors import SubmitLimitError
from dagster_slurm.process_identity import Vantage
from dagster_slurm.slurm import rejections
from dagster_slurm.transport.pool import make_own, open_lock, try_lock

FULL_SECONDS = 5.0
"""For how long "no more jobs" is believed without asking again."""

THROTTLED_SECONDS = 30.0
"""The same where it is submissions that are counted, by the hour; each try leaves its files on the cluster."""

_ACCEPTED_SECONDS = 300.0
# A site that counts submissions is taken to count them tomorrow.
_COUNTS_SECONDS = 86400.0
_POLL_SECONDS = 0.02
# A full or vanished directory may be usable again.
_UNUSABLE_SECONDS = 60.0
NOWHERE = -1
"""In place of a descriptor that holds a turn: nothing is shared."""

_R = TypeVar("_R")
# On macOS CLOCK_MONOTONIC is one that goes on while the machine sleeps.
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_log = logging.getLogger(__name__)


seconds_since_boot = partial(time.clock_gettime, _SINCE_BOOT)
"""The clock that all processes of this machine share; it goes on while the machine sleeps."""


def this_era() -> str:
    """Which boot of which machine it is, and which time namespace (time_namespaces(7)); empty if it cannot be told."""
    boot_id = Vantage.here().boot_id
    try:
        return boot_id and f"{boot_id} {Path('/proc/self/ns/time').readlink()}"
    except OSError:
        return boot_id


class SharedDirectory:
    """Facts by name, each in a file that is replaced by rename.

    Args:
        path: Where they lie.
        clock: Seconds since boot.
        era: Of which boot; by default of this one.

    Every method but `attempt` may raise OSError where the directory cannot be used.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = seconds_since_boot, era: str | None = None) -> None:
        self.path = path
        self.now = clock
        self._given_era = era
        self._is_made = False
        self._unusable_until: float | None = None

    @cached_property
    def _era(self) -> str:
        return this_era() if self._given_era is None else self._given_era

    def attempt(
        self, do: Callable[[SharedDirectory], _R], otherwise: _R, failed: Callable[[], object] = lambda: None
    ) -> _R:
        """Do something in it, which is made if it is not there.

        Args:
            do: What; it may raise OSError.
            otherwise: What comes of it where the directory cannot be used, or could not a short while ago.
            failed: Called when that is found out.
        """
        if self._unusable_until is not None and self.now() < self._unusable_until:
            return otherwise
        try:
            if not self._is_made:
                self._make()
            return do(self)
        except OSError as error:
            if self._unusable_until is None:
                _log.debug("Answers of Slurm are not shared with other processes: %s", error)
            self._is_made, self._unusable_until = False, self.now() + _UNUSABLE_SECONDS
            # Nobody is to wait for this process, and it begins anew if the directory comes back.
            failed()
            return otherwise

    def _make(self) -> None:
        """Make it, and the one it lies in, so that nobody else can write to it."""
        if not self._era:
            raise OSError("this boot cannot be told from others")
        for each in (self.path.parent, self.path):
            make_own(each)
        self._is_made = True

    def open(self, name: str) -> int:
        """A file in it that nobody else can read, made if it is not there."""
        return open_lock(self.path / name)

    def read(self, name: str) -> tuple[float, Any] | None:
        """When something was written under a name, and what; as `taken`."""
        try:
            return self.taken((self.path / name).read_bytes())
        except FileNotFoundError:
            return None

    def write(self, name: str, said: object, *, at: float | None = None) -> None:
        """Let all know something, as of now or of that moment."""
        part = self.path / f"{name}.{os.getpid()}-{threading.get_ident()}.part"
        part.write_bytes(self.told(said, self.now() if at is None else at))
        part.replace(self.path / name)

    def told(self, said: object, at: float) -> bytes:
        """What a file holds."""
        return json.dumps({"era": self._era, "at": at, "said": said}).encode()

    def taken(self, data: bytes) -> tuple[float, Any] | None:
        """The same, read; None for what is torn, of another boot, of the future, or of another release."""
        try:
            told = json.loads(data)
            at, said, is_ours = told["at"], told["said"], told["era"] == self._era
            return (float(at), said) if is_ours and at <= self.now() else None
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None


@dataclass
class Turn:
    """Who may ask for all, by a lock of that name. Who holds it for too long keeps it, and the others have a new one.

    Args:
        name: Of its file.
        patience_seconds: How long one who asks is waited for before somebody else does.
    """

    name: str
    patience_seconds: float
    _held_up: tuple[int, float] | None = None

    def take(self, shared: SharedDirectory) -> int | None:
        """The descriptor that holds it, for `give_back`; None while somebody else has it.

        Raises:
            OSError: The directory cannot be used.
        """
        descriptor = shared.open(self.name)
        inode = os.fstat(descriptor).st_ino
        if try_lock(descriptor):
            self._held_up = None
            if inode == self._inode(shared):
                return descriptor
            os.close(descriptor)
            return None
        os.close(descriptor)
        if self._held_up is None or self._held_up[0] != inode:
            self._held_up = inode, shared.now()
        if shared.now() - self._held_up[1] < self.patience_seconds:
            return None
        if self._inode(shared) == inode:
            (shared.path / self.name).unlink(missing_ok=True)
        return self.take(shared)

    def _inode(self, shared: SharedDirectory) -> int:
        try:
            return (shared.path / self.name).stat().st_ino
        except FileNotFoundError:
            return 0


def give_back(turn: int | None) -> None:
    """Let others have the turn."""
    if turn not in (None, NOWHERE):
        # A fork of this process may have it open as well.
        fcntl.flock(turn, fcntl.LOCK_UN)
        os.close(turn)


class Admissions:
    """What Slurm has said of requests, to this process or to any that shares the directory.

    `sbatch --test-only` costs the controller about as much as a submission. A request that was accepted for one process
    is for some minutes accepted for all; that no more jobs are taken is found out by one of those who wait for a place.

    Args:
        shared: Where it is shared; None for this process alone, as where it cannot be used.
        patience_seconds: How long another process that asks is waited for.
    """

    def __init__(self, shared: SharedDirectory | None = None, *, patience_seconds: float = 10.0) -> None:
        self._shared = shared
        self._turn = Turn("lock", patience_seconds)
        self._accepted: set[str] = set()
        self._full: SubmitLimitError | None = None
        self._full_until = 0.0
        self._counts_questions = False
        self._site: tuple[float, str] | None = None
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the one that asks: of a hundred that want the same, or wait for a place, one does."""
        with self._lock:
            while (turn := self._try(self._turn.take, NOWHERE)) is None:
                time.sleep(_POLL_SECONDS)
            try:
                yield
            finally:
                give_back(turn)

    def has_accepted(self, script: str) -> bool:
        """Whether it was accepted before, for this process, or lately for another."""
        if script not in self._accepted and self._lately(_name_of(script), _ACCEPTED_SECONDS) is not None:
            self._accepted.add(script)
        return script in self._accepted

    def accept(self, script: str) -> None:
        """It was accepted."""
        self._accepted.add(script)
        self._try(lambda shared: shared.write(_name_of(script), {}))

    def full(self) -> SubmitLimitError | None:
        """Why no more jobs are taken, if that was said just now."""
        if self._full is not None and time.monotonic() < self._full_until:
            return self._full
        return self._told_full(THROTTLED_SECONDS if self.counts_questions() else FULL_SECONDS)

    def _told_full(self, seconds: float) -> SubmitLimitError | None:
        said = self._lately("full", seconds)
        try:
            return SubmitLimitError(**said) if said else None
        except TypeError:
            # Of another release.
            return None

    def fill(self, error: SubmitLimitError) -> None:
        """No more jobs are taken."""
        if rejections.is_throttled(error.stderr):
            self._counts_questions = True
            self._try(lambda shared: shared.write("counts", {}))
        seconds = THROTTLED_SECONDS if self._counts_questions else FULL_SECONDS
        self._full, self._full_until = error, time.monotonic() + seconds
        names = ("message", "returncode", "stderr", "hint", "host", "command")
        self._try(lambda shared: shared.write("full", {name: getattr(error, name) for name in names}))

    def counts_questions(self) -> bool:
        """Whether Slurm counts a question as a submission, as a refusal has shown."""
        if not self._counts_questions:
            self._counts_questions = self._lately("counts", _COUNTS_SECONDS) is not None
        return self._counts_questions

    def site(self, seconds: float) -> str | None:
        """What the cluster has said of its partitions, if that was not longer ago."""
        if self._site is not None and seconds_since_boot() - self._site[0] < seconds:
            return self._site[1]
        said = self._lately("site", seconds)
        return said if isinstance(said, str) else None

    def tell_site(self, text: str) -> None:
        """The cluster has said it."""
        self._site = seconds_since_boot(), text
        self._try(lambda shared: shared.write("site", text))

    def try_for_others(self) -> None:
        """Who has the turn submits without a question; if the last was refused, others wait for what comes of it."""
        last = self._told_full(float("inf")) if self._shared else self._full
        if last is not None:
            self.fill(last)

    def clear(self) -> None:
        """There is a place."""
        self._full = None
        self._try(lambda shared: (shared.path / "full").unlink(missing_ok=True))

    def _lately(self, name: str, seconds: float) -> Any:
        """What was written under a name by any of them, if that was not longer ago."""

        def read(shared: SharedDirectory) -> Any:
            found = shared.read(name)
            return found[1] if found and shared.now() - found[0] < seconds else None

        return self._try(read)

    def _try(self, do: Callable[[SharedDirectory], Any], otherwise: object = None) -> Any:
        return otherwise if self._shared is None else self._shared.attempt(do, otherwise)


def _name_of(script: str) -> str:
    return f"accepted-{hashlib.sha256(script.encode()).hexdigest()[:32]}"
