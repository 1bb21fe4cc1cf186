"""The file descriptors of this process: how many are free, and waiting until there are enough."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Descriptors:
    """How it stands with them.

    Args:
        opened: How many are open.
        most: How many may be open, as `ulimit -n` says; None for any number.
    """

    opened: int
    most: int | None

    @property
    def free(self) -> float:
        """How many more may be opened."""
        return float("inf") if self.most is None else max(self.most - self.opened, 0)

    def __str__(self) -> str:
        return f"this process may have {self.most} files and sockets open (ulimit -n), and has {self.opened}"


def look() -> Descriptors:
    """Count them."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Descriptors(len(list(Path("/dev/fd").iterdir())), None if most == resource.RLIM_INFINITY else most)


class Room:
    """Lets what needs descriptors begin, one after the other, while there are enough of them; one can always.

    Args:
        free: How many have to be free: what it needs, and what others may need meanwhile.
    """

    def __init__(self, free: int) -> None:
        self._free = free
        self._begun = 0
        self._changed = threading.Condition()

    @contextmanager
    def opening(self, tell: Callable[[str], object]) -> Iterator[None]:
        """Wait for enough; what is opened in the block is counted by the next. `tell` is told if it has to."""
        with self._changed:
            if not self._is_enough():
                tell(f"It begins when others have ended: {look()}")
            while not self._is_enough():
                self._changed.wait(_LOOK_SECONDS)
            yield
            self._begun += 1

    def closed(self) -> None:
        """What was opened in one such block is closed."""
        with self._changed:
            self._begun -= 1
            self._changed.notify_all()

    def _is_enough(self) -> bool:
        return not self._begun or look().free >= self._free
