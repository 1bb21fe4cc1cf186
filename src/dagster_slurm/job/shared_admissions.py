"""What Slurm has said of requests to any process of this user on this machine.

`sbatch --test-only` costs the controller about as much as a submission. A request that was accepted for one process is
for some minutes accepted for all; that no more jobs are taken is found out by one of those who wait for a place.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster_slurm.cluster import FULL_SECONDS, Admissions
from dagster_slurm.errors import SubmitLimitError
from dagster_slurm.job.shared_answers import make_private, seconds_since_boot, this_era, try_lock

_ACCEPTED_SECONDS = 300.0
_POLL_SECONDS = 0.02
# One that was stopped while it asked is not waited for again and again.
_IMPATIENT_SECONDS = 60.0
_log = logging.getLogger(__name__)


class SharedAdmissions(Admissions):
    """The same, of all processes that name the directory; of this process alone where it cannot be used.

    Args:
        directory: Where it is kept; made if it is not there.
        clock: Seconds since boot.
        era: Of which boot.
        patience_seconds: How long another process that asks is waited for.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], float] = seconds_since_boot,
        era: str | None = None,
        patience_seconds: float = 10.0,
    ) -> None:
        super().__init__()
        self._directory = directory
        self._clock = clock
        self._era = this_era() if era is None else era
        self._patience_seconds = patience_seconds
        self._impatient_until = float("-inf")
        self._usable: bool | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the one that asks, of all processes."""
        with super().turn():
            lock = self._locked()
            try:
                yield
            finally:
                if lock is not None:
                    os.close(lock)

    def has_accepted(self, script: str) -> bool:
        """Whether it was accepted before, by this process, or lately."""
        if not super().has_accepted(script) and self._read(_name_of(script), _ACCEPTED_SECONDS) is not None:
            super().accept(script)
        return super().has_accepted(script)

    def accept(self, script: str) -> None:
        """It was accepted."""
        super().accept(script)
        self._write(_name_of(script), {})

    def full(self) -> SubmitLimitError | None:
        """Why no more jobs are taken, if that was said just now."""
        said = self._read("full", FULL_SECONDS)
        try:
            return super().full() or (SubmitLimitError(**said) if said else None)
        except TypeError:
            # Of another release.
            return None

    def fill(self, error: SubmitLimitError) -> None:
        """No more jobs are taken."""
        super().fill(error)
        names = ("message", "returncode", "stderr", "hint", "host", "command")
        self._write("full", {name: getattr(error, name) for name in names})

    def clear(self) -> None:
        """There is a place."""
        super().clear()
        if not self._is_usable():
            return
        try:
            (self._directory / "full").unlink(missing_ok=True)
        except OSError as error:
            self._say(error)

    def _locked(self) -> int | None:
        """The lock, or None if it cannot be had, or not in time."""
        if not self._is_usable():
            return None
        try:
            descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._say(error)
            return None
        now = self._clock()
        deadline = now if now < self._impatient_until else now + self._patience_seconds
        while not try_lock(descriptor, fcntl.LOCK_EX):
            if self._clock() >= deadline:
                os.close(descriptor)
                self._impatient_until = self._clock() + _IMPATIENT_SECONDS
                return None
            time.sleep(_POLL_SECONDS)
        return descriptor

    def _read(self, name: str, seconds: float) -> Mapping[str, Any] | None:
        """What was written under a name by any of them, if that was in this boot and not longer ago."""
        if not self._is_usable():
            return None
        try:
            told = json.loads((self._directory / name).read_text(encoding="utf-8"))
            is_fresh = told["era"] == self._era and 0.0 <= self._clock() - told["at"] < seconds
            return dict(told["said"]) if is_fresh else None
        except (OSError, ValueError, TypeError, KeyError):
            # Not there, torn, or of another release.
            return None

    def _write(self, name: str, said: Mapping[str, object]) -> None:
        if not self._is_usable():
            return
        part = self._directory / f"{name}.{os.getpid()}.part"
        try:
            part.write_text(json.dumps({"era": self._era, "at": self._clock(), "said": said}), encoding="utf-8")
            part.replace(self._directory / name)
        except OSError as error:
            self._say(error)

    def _is_usable(self) -> bool:
        if self._usable is None:
            try:
                make_private(self._directory)
                self._usable = bool(self._era)
            except OSError as error:
                self._usable = False
                self._say(error)
        return self._usable

    def _say(self, error: OSError) -> None:
        _log.debug("What Slurm accepts is not shared with other processes: %s", error)


def _name_of(script: str) -> str:
    return f"accepted-{hashlib.sha256(script.encode()).hexdigest()[:32]}"
