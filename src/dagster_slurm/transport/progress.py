"""What is told about an upload while it runs. Pure, but for the clock that is passed in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from dagster_slurm.text import duration_words

_FIRST_SECONDS = 3.0
_GROWTH = 1.5
_LONGEST_SECONDS = 60.0
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class UploadProgress:
    """How far an upload is.

    Args:
        sent_bytes: What has arrived, earlier tries included.
        total_bytes: What there is to send.
        bytes_per_second: The speed of this try so far.
        seconds_left: How long the rest takes at this speed; None if nothing was sent yet.
        verb: What is done: "uploaded", "fetched".
    """

    sent_bytes: int
    total_bytes: int
    bytes_per_second: float
    seconds_left: float | None
    verb: str = "uploaded"

    def __str__(self) -> str:
        unit, scale = _unit(self.total_bytes)
        share = 100 * self.sent_bytes // self.total_bytes if self.total_bytes else 100
        left = "" if self.seconds_left is None else f", {duration_words(self.seconds_left)} left"
        sent, total = (f"{size / scale:.0f}" for size in (self.sent_bytes, self.total_bytes))
        speed_unit, speed_scale = _unit(self.bytes_per_second)
        speed = f"{self.bytes_per_second / speed_scale:.0f} {speed_unit}/s"
        return f"{self.verb} {sent} of {total} {unit} ({share} %), {speed}{left}"


ProgressCallback = Callable[[UploadProgress], None]


class ProgressReport:
    """Tells a callback about an upload: after a few seconds, then less and less often.

    Args:
        callback: Who is told; nobody if None.
        total_bytes: What there is to send.
        arrived_bytes: What earlier tries have brought there.
        clock: Seconds that pass.
        verb: What is done.
    """

    def __init__(
        self,
        callback: ProgressCallback | None,
        *,
        total_bytes: int,
        arrived_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        verb: str = "uploaded",
    ) -> None:
        self._callback = callback
        self._total = total_bytes
        self._arrived = arrived_bytes
        self._clock = clock
        self._verb = verb
        self._began = clock()
        self._pause = _FIRST_SECONDS
        self._due = self._began + self._pause

    def sent(self, sent_bytes: int) -> None:
        """Take note that so much has arrived by now."""
        now = self._clock()
        if self._callback is None or now < self._due or sent_bytes >= self._total:
            return
        self._pause = min(self._pause * _GROWTH, _LONGEST_SECONDS)
        self._due = now + self._pause
        speed = (sent_bytes - self._arrived) / max(now - self._began, 1e-9)
        left = (self._total - sent_bytes) / speed if speed > 0 else None
        self._callback(UploadProgress(sent_bytes, self._total, speed, left, self._verb))


def _unit(size: float) -> tuple[str, float]:
    scale = 1.0
    for unit in _UNITS[:-1]:
        if size < 1000 * scale:
            return unit, scale
        scale *= 1000
    return _UNITS[-1], scale
