"""How long a line takes from the payload that prints it to the step's compute log, and a message to Dagster's log."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Part of `typing` from Python 3.11 on.
    from typing_extensions import Self

LOOK_SECONDS = 0.05
LOOKS_FOR_NEW_FILES = 10
_SENT = re.compile(rb"\bsent (\d+\.\d+)")
_MESSAGE = re.compile(r'"user_message": "sent (\d+\.\d+)"')


class _Beside:
    """Looks beside, for as long as its block lasts."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.delays: list[float] = []

    def _look(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Arrivals(_Beside):
    """Looks for lines `sent TIME` in the compute logs below a DAGSTER_HOME, for as long as its block lasts.

    The cluster and this machine have one clock. A line that arrives twice counts once.

    Attributes:
        delays: Seconds from the printing of each line to its arrival.
        last_at: When the last one was printed, in seconds since the epoch.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._read_to: dict[Path, int] = {}
        self._seen: set[tuple[Path, bytes]] = set()
        self.last_at = 0.0

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
                self.last_at = max(self.last_at, float(sent))

    @property
    def output_bytes(self) -> int:
        """The size of the compute logs."""
        return sum(path.stat().st_size for path in self._read_to)


class Messages(_Beside):
    """Looks for messages `sent TIME` in Dagster's event log below a DAGSTER_HOME, for as long as its block lasts.

    An event is in the log when another process can read it.

    Attributes:
        delays: Seconds from the sending of each message to that.
    """

    def _look(self) -> None:
        read_to = 0
        while not self._over.wait(LOOK_SECONDS):
            for path in self._files():
                read_to = self._read(path, read_to)

    def _files(self) -> list[Path]:
        return [path for path in self._home.glob("history/runs/*.db") if path.stem != "index"]

    def _read(self, path: Path, after: int) -> int:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as connection:
            try:
                rows = connection.execute(
                    "SELECT id, event FROM event_logs WHERE id > ? ORDER BY id", (after,)
                ).fetchall()
            except sqlite3.OperationalError:
                # Its tables are being made.
                return after
        now = time.time()
        for _, event in rows:
            self.delays += [now - float(sent) for sent in _MESSAGE.findall(event)]
        return max([after, *(number for number, _ in rows)])

    def last_success_at(self) -> float:
        """When the last step has succeeded, in seconds since the epoch."""
        ends = [0.0]
        for path in self._files():
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as connection:
                asked = "SELECT event FROM event_logs WHERE dagster_event_type = 'STEP_SUCCESS'"
                ends += [float(json.loads(event)["timestamp"]) for (event,) in connection.execute(asked)]
        return max(ends)
