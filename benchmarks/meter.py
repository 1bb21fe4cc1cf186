"""Runs a command and tells what it has cost, with everything it has started: wall time, CPU, memory.

    python3 benchmarks/meter.py COMMAND [ARGUMENT ...]

What the command prints goes to stderr, and one line of JSON to stdout. It needs the standard library only, since it
runs on the login node as well. A process that goes to the background (OpenSSH's master) is counted, too, and killed at
the end. After 400 s everything is killed, and the exit code is that of timeout(1).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

LOOK_SECONDS = 0.25
LIMIT_SECONDS = 400
TIMED_OUT = 124
# prctl(2): orphaned descendants become children of this process, and not of init.
PR_SET_CHILD_SUBREAPER = 36


class Memory(threading.Thread):
    """Looks at all descendants a few times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_kib = 0
        self.most_processes = 0
        self.over = threading.Event()

    def run(self) -> None:
        began = time.monotonic()
        with Path(os.environ.get("METER_SAMPLES", os.devnull)).open("a") as samples:
            while not self.over.wait(LOOK_SECONDS if self.most_processes else 0.0):
                found = list(descendants(os.getpid()))
                kib = sum(map(proportional_kib, found))
                print(json.dumps([time.monotonic() - began, kib / 1024]), file=samples, flush=True)
                self.peak_kib = max(self.peak_kib, kib)
                self.most_processes = max(self.most_processes, len(found))


def descendants(root: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := parent_of(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    waiting = children.get(root, [])
    while waiting:
        process = waiting.pop()
        yield process
        waiting += children.get(process, [])


def parent_of(entry: Path) -> int | None:
    try:
        # proc(5): the name, in brackets, may hold anything.
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None  # it has just ended


def proportional_kib(process: int) -> int:
    """Its memory, in KiB; pages shared by n processes count 1/n for each (proc(5), Pss)."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0  # it has just ended
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def end_leftovers() -> None:
    """Kill and collect what is left; its CPU time is known after that."""
    try:
        while True:
            for process in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(process, signal.SIGKILL)
            os.wait()
    except ChildProcessError:
        return


def main() -> int:
    """Run the command and print what it has cost; the exit code is the command's."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    memory = Memory()
    began = time.monotonic()
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    memory.start()
    try:
        status = process.wait(LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        status = TIMED_OUT
    wall = time.monotonic() - began
    memory.over.set()
    memory.join()
    end_leftovers()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {
        "wall_seconds": wall,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "memory_mib": memory.peak_kib / 1024,
        "processes": memory.most_processes,
    }
    print(json.dumps(cost))
    return status


if __name__ == "__main__":
    sys.exit(main())
