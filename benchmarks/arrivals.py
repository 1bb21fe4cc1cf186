"""How long a line takes from the payload that prints it to the step's compute log."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

LOOK_SECONDS = 0.05
LOOKS_FOR_NEW_FILES = 10
_SENT = re.compile(rb"\bsent (\d+\.\d+)")


class Arrivals:
    """Looks for lines `sent TIME` in the compute logs below a DAGSTER_HOME, for as long as its block lasts.

    The cluster and this machine have one clock. A line that arrives twice counts once.

    Attributes:
        delays: Seconds from the printing of each line to its arrival.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._read_to: dict[Path, int] = {}
        self._seen: set[tuple[Path, bytes]] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.delays: list[float] = []

    def __enter__(self) -> Arrivals:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        looks = 0
        while not self._over.wait(LOOK_SECONDS):
            if looks % LOOKS_FOR_NEW_FILES == 0:
                self._find()
            looks += 1
            for path in self._read_to:
                self._read(path)
        self._find()
        for path in self._read_to:
            self._read(path)

    def _find(self) -> None:
        for kind in ("out", "err"):
            for path in self._home.glob(f"storage/*/compute_logs/**/*.{kind}"):
                self._read_to.setdefault(path, 0)

    def _read(self, path: Path) -> None:
        at = self._read_to[path]
        if path.stat().st_size == at:
            return
        now = time.time()
        with path.open("rb") as file:
            file.seek(at)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read_to[path] = at + len(whole) + len(newline)
        for sent in _SENT.findall(whole):
            if (path, sent) not in self._seen:
                self._seen.add((path, sent))
                self.delays.append(now - float(sent))
