"""A process that has imported Dagster, and forks others that have therefore imported it too.

usage: python -m tests.support.forking_server SOCKET

What a fork is to be comes over the socket, see `tests/support/forked.py`: a line of JSON with the file descriptors that
it gets. The answers are its process id and, when it has ended, its wait status. One that is bound to whoever asked for
it is killed, with its process group, when that closes the connection.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import importlib
import json
import multiprocessing.spawn
import os
import random
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import revisions

IMPORTED = (
    "dagster",
    "dagster._cli",
    "dagster._cli.api",
    "dagster._cli.asset",
    "dagster._cli.job",
    "dagster_dg_cli.cli.launch",
    "dagster._core.storage.dagster_run",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.run_coordinator",
    "dagster._core.launcher.default_run_launcher",
    "dagster._core.executor.child_process_executor",
    "dagster_pipes",
    "dagster_slurm",
    "dagster_slurm.cli",
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
)


@dataclass
class Serving:
    """What is open, and who waits for which process; of those, who takes it along."""

    listening: socket.socket
    wake: tuple[int, int]
    waiting: dict[int, socket.socket] = field(default_factory=dict)
    bound: dict[socket.socket, int] = field(default_factory=dict)

    def close(self) -> None:
        """In a fork, which has no use for it."""
        signal.set_wakeup_fd(-1)
        for each in (self.listening, *self.waiting.values()):
            each.close()
        for fd in self.wake:
            os.close(fd)


def serve(path: str) -> dict[str, Any] | None:
    """Fork what is asked for, and return in each fork what that is to be; None when there is nobody to ask any more."""
    wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake[1])
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        serving = Serving(listening, wake)
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([listening, wake[0], 0, *serving.bound], [], [])
            if 0 in readable:
                return None  # stdin has ended: the tests are over
            if wake[0] in readable:
                os.read(wake[0], 4096)
                report_the_ended(serving)
            for connection in serving.bound.keys() & set(readable):
                with suppress(ProcessLookupError):
                    os.killpg(serving.bound.pop(connection), signal.SIGKILL)
            if listening in readable and (asked := fork(serving)) is not None:
                return asked


def fork(serving: Serving) -> dict[str, Any] | None:
    """Fork once; in the fork, return what it is to be."""
    connection = serving.listening.accept()[0]
    asked, fds = receive(connection)
    became, becomes = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        serving.close()
        connection.close()
        os.close(became)
        become(asked, fds, becomes)
        return asked
    for fd in (becomes, *fds):
        os.close(fd)
    # As with Popen, it is what it is to be before anybody knows its id.
    os.read(became, 1)
    os.close(became)
    with suppress(BrokenPipeError):
        connection.sendall(f"{pid}\n".encode())
    serving.waiting[pid] = connection
    if asked.get("bound"):
        serving.bound[connection] = pid
    return None


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One request: its length, itself, and stdin, stdout, stderr and what else it gets."""
    head, fds, _, _ = socket.recv_fds(connection, 8, 64)
    with connection.makefile("rb") as file:
        return json.loads(file.read(int(head))), fds


def report_the_ended(serving: Serving) -> None:
    """Tell whoever asked for a process that it has ended, and how."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with suppress(OSError), serving.waiting.pop(ended[0]) as connection:
                serving.bound.pop(connection, None)
                connection.sendall(f"{ended[1]}\n".encode())


def become(asked: dict[str, Any], fds: list[int], becomes: int) -> None:
    """Be in session, directory, environment and streams what was asked for, and say so by closing the last."""
    for number in (signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if asked["session"]:
        os.setsid()
    becomes = put_in_place(fds, asked.get("fds", [0, 1, 2]), becomes)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    show_environment(asked["env"])
    random.seed()
    if asked.get("executable"):
        sys.executable = asked["executable"]
        multiprocessing.spawn.set_executable(sys.executable)
    os.close(becomes)


def put_in_place(fds: list[int], numbers: list[int], other: int) -> int:
    """Give file descriptors the numbers they are to have; return the number of the other, which was in the way."""
    above = max(*numbers, *fds, other) + 1
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in (*fds, other)]
    for fd in (*fds, other):
        os.close(fd)
    *high, moved = high
    for number, fd in zip(numbers, high, strict=True):
        os.dup2(fd, number)
        os.close(fd)
    return moved


def show_environment(variables: dict[str, str]) -> None:
    """Have /proc/PID/environ show what a process that was executed with these variables would show.

    It shows the memory in which the server found its own variables, of which nothing is in use any more (proc(5)).
    """
    block = b"".join(f"{name}={value}\0".encode() for name, value in variables.items())
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    begin, end = int(fields[47]), int(fields[48])
    if len(block) > end - begin:
        raise ValueError(f"{len(block)} bytes of variables, and there is room for {end - begin}")
    ctypes.memmove(begin, block.ljust(end - begin, b"\0"), end - begin)


def run(asked: dict[str, Any]) -> None:
    """Run a module (`-m`), a script or a text (`-c`) as Python does."""
    kind, what, *arguments = asked["program"]
    sys.argv = [what, *arguments]
    sys.path[0] = str(Path(what).resolve().parent) if kind == "script" else ""
    sys.path[1:1] = [path for path in asked["env"].get("PYTHONPATH", "").split(":") if path]
    if kind == "module":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif kind == "script":
        runpy.run_path(what, run_name="__main__")
    else:
        sys.argv[0] = "-c"
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


def main() -> None:
    """Serve; a fork leaves with what it has run, as a process of its own."""
    for name in IMPORTED:
        importlib.import_module(name)
    revisions.keep()
    # Collections in the forks would copy the pages of all that was imported.
    gc.collect()
    gc.freeze()
    asked = serve(sys.argv[1])
    if asked is not None:
        run(asked)


if __name__ == "__main__":
    main()
