"""The memory of a payload on this machine, by what the kernel tells of its processes (proc_pid_status(5), Linux)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_KIB = 1024
_LINE = re.compile(r"^(\w+):\s+(\d+)", re.MULTILINE)
_LEAST_PAUSE_SECONDS = 0.05
# A look takes a fiftieth of the time at most, two in a row a 25th: of one process 0.2 ms (0.8 % of a core, measured),
# of 64 some 12.
_PAUSES_FOR_A_LOOK = 50
# What matters: less than a sixteenth is left to chance, as in figures.sh.
_PART = 16
_SOME_FILES_KIB = 1024


@dataclass(frozen=True)
class Seen:
    """What the kernel tells of a process: all in KiB, but for whose it is.

    Args:
        parent: Its parent's number.
        session: The session that it is in.
        own: Its anonymous and shared memory.
        files: Its files in memory: programs, libraries, and what else it has mapped.
        peak: The most of both that it has had at once, since it has begun its program.
        size: Its address space.
    """

    parent: int
    session: int
    own: int
    files: int
    peak: int
    size: int


class MemoryHere:
    """The most memory that a payload has had at once, without files, as far as looks at its processes tell.

    Of each process the kernel keeps the peak, so that nothing is missed between two looks but what several have had at
    once, or one in its last twentieth of a second.

    Args:
        root: The process that the payload is, or that has started it; its session has the same number.
        proc: Where the kernel tells.
    """

    def __init__(self, root: int, proc: Path = _PROC) -> None:
        self._root = root
        self._proc = proc
        self._known: set[int] = set()
        self._most_files: dict[int, int] = {}
        self._most_kib = 0
        self._divided_kib = 0
        self._unconfirmed_kib: int | None = None
        self._is_unsure = False
        # Whether the next look is to confirm what the last one has found.
        self._is_second = False
        self._due = 0.0

    @property
    def most_bytes(self) -> int | None:
        """The most; None if it is not known, or if what the last look has found may be more."""
        is_sure = not self._is_unsure and (self._unconfirmed_kib or 0) <= self._most_kib + self._most_kib // _PART
        return self._most_kib * _KIB if self._most_kib and is_sure else None

    def look(self) -> None:
        """Look, if it is time to."""
        if time.monotonic() < self._due:
            return
        began = time.thread_time()
        seen = dict(self._processes())
        self._known = set(seen)
        self._take({pid: each for pid, each in seen.items() if not _is_in_its_parent(each, seen)})
        took = time.thread_time() - began
        # What is found twice counts, and at the end nobody looks again: so the second look comes soon, of each two.
        self._is_second = self._unconfirmed_kib is not None and not self._is_second
        pause = _LEAST_PAUSE_SECONDS if self._is_second else max(_LEAST_PAUSE_SECONDS, _PAUSES_FOR_A_LOOK * took)
        self._due = time.monotonic() + pause

    def _take(self, seen: Mapping[int, Seen]) -> None:
        self._most_kib = max(self._most_kib, self._together(seen), *(self._peak(*each) for each in seen.items()), 0)

    def _together(self, seen: Mapping[int, Seen]) -> int:
        """What all have at once. Memory that several share, as after a fork, is in the figures of each."""
        own = [each.own for each in seen.values()]
        total, largest = sum(own), max(own, default=0)
        if total - largest <= total // _PART:
            return largest
        before = self._unconfirmed_kib
        if before is None and total <= self._divided_kib + self._divided_kib // _PART:
            return 0
        # They are asked one after the other, while pages may become shared: what two looks find was so.
        self._divided_kib, now = total, sum(map(self._share, seen))
        found = min(before or 0, now)
        self._unconfirmed_kib = now if now > found + found // _PART else None
        return found

    def _share(self, pid: int) -> int:
        """What a process has of what it shares with others, and all of its own. The kernel walks through its pages."""
        try:
            told = _figures(self._proc / str(pid) / "smaps_rollup")
        except (FileNotFoundError, ProcessLookupError):
            return 0
        except OSError:
            # Of another user, as behind sudo.
            told = {}
        self._is_unsure = self._is_unsure or "Pss_Anon" not in told
        return told.get("Pss_Anon", 0) + told.get("Pss_Shmem", 0)

    def _peak(self, pid: int, process: Seen) -> int:
        """Its peak without files; 0 if there were more of them before, so that nobody knows what it was made of."""
        most = self._most_files[pid] = max(process.files, self._most_files.get(pid, 0))
        return process.peak - process.files if most <= process.files + process.files // _PART + _SOME_FILES_KIB else 0

    def _processes(self) -> Iterator[tuple[int, Seen]]:
        """Those below the root, and those that were, of its session: their parents have ended."""
        left, met = [self._root, *sorted(self._known)], set[int]()
        while left:
            pid = left.pop()
            if pid in met:
                continue
            process = _read(self._proc / str(pid))
            if process is None or (process.session != self._root and process.parent not in met):
                continue
            met.add(pid)
            yield pid, process
            left += _children(self._proc / str(pid))


def _is_in_its_parent(process: Seen, seen: Mapping[int, Seen]) -> bool:
    """Whether it was started a moment ago, and is in its parent's memory until it begins its program (vfork(2))."""
    parent = seen.get(process.parent)
    return parent is not None and (parent.own, parent.files, parent.size) == (process.own, process.files, process.size)


def _read(directory: Path) -> Seen | None:
    """None for a process that has ended, and where the kernel does not tell."""
    try:
        told = _figures(directory / "status")
        own = told["RssAnon"] + told["RssShmem"]
        return Seen(told["PPid"], told["NSsid"], own, told["RssFile"], told["VmHWM"], told["VmSize"])
    except (OSError, KeyError):
        return None


def _children(directory: Path) -> list[int]:
    """Those that its threads have started."""
    found: list[int] = []
    with suppress(OSError):
        for thread in (directory / "task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text("ascii").split())
    return found


def _figures(path: Path) -> dict[str, int]:
    # A process has any bytes for a name.
    return {name: int(value) for name, value in _LINE.findall(path.read_text("utf-8", errors="replace"))}
