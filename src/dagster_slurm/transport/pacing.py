"""How large the next piece of an upload is, by the speed of those before. Pure."""

from __future__ import annotations

SMALLEST_PIECE_BYTES = 1 << 18
LARGEST_PIECE_BYTES = 1 << 28
# Where others have no channel of their own. The next one costs 5 ms, which is much only in a piece of 0.05 s.
LARGEST_PIECE_ON_ONE_CHANNEL_BYTES = 1 << 24
# So long do others wait at most, on a connection that carries one request at a time.
_PIECE_SECONDS = 1.0
# Half of the weight on the last piece: a link that becomes slow is noticed with the next one.
_WEIGHT = 0.5


class Pacer:
    """Sizes pieces so that each takes about a second.

    Args:
        largest: The size of the largest piece that there may be; the first one is a 64th of it.
    """

    def __init__(self, largest: int = LARGEST_PIECE_BYTES) -> None:
        self._first = max(largest // 64, SMALLEST_PIECE_BYTES)
        self._bytes_per_second: float | None = None

    @property
    def piece_bytes(self) -> int:
        """The size of the next piece."""
        if self._bytes_per_second is None:
            return self._first
        return min(max(int(self._bytes_per_second * _PIECE_SECONDS), SMALLEST_PIECE_BYTES), LARGEST_PIECE_BYTES)

    def sent(self, size_bytes: int, seconds: float) -> None:
        """Take note of how long a piece took."""
        measured = size_bytes / max(seconds, 1e-6)
        known = self._bytes_per_second
        # The first piece is small and tells more about the delay than about the speed.
        first = known is None or known < measured
        self._bytes_per_second = measured if first or known is None else known + _WEIGHT * (measured - known)
