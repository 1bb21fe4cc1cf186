"""A process that has imported Dagster, and forks others that have therefore imported it too.

usage: python -m tests.support.forking_server SOCKET

What a fork is to be comes over the socket, see `tests/support/forked.py`: a line of JSON with the file descriptors that
it gets. The answers are its process id and, when it has ended, its wait status.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

IMPORTED = (
    "dagster",
    "dagster._cli",
    "dagster._cli.api",
    "dagster._cli.asset",
    "dagster._cli.job",
    "dagster._core.storage.dagster_run",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.run_coordinator",
    "dagster._core.launcher.default_run_launcher",
    "dagster._core.executor.child_process_executor",
    "dagster_pipes",
    "dagster_slurm",
    "dagster_slurm.cli",
    "dagster_slurm.cli.main",
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
)


def serve(path: str) -> dict[str, Any] | None:
    """Fork what is asked for, and return in each fork what that is to be; None when there is nobody to ask any more."""
    waiting: dict[int, socket.socket] = {}
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([listening, wake, 0], [], [])
            if 0 in readable:
                return None  # stdin has ended: the tests are over
            if wake in readable:
                os.read(wake, 4096)
                report_the_ended(waiting)
            if listening in readable:
                connection = listening.accept()[0]
                asked, fds = receive(connection)
                became, becomes = os.pipe2(os.O_CLOEXEC)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    for each in (listening, connection, *waiting.values()):
                        each.close()
                    become(asked, fds)
                    os.close(becomes)
                    return asked
                for fd in (becomes, *fds):
                    os.close(fd)
                # As with Popen, it is what it is to be before anybody knows its id.
                os.read(became, 1)
                os.close(became)
                connection.sendall(f"{pid}\n".encode())
                waiting[pid] = connection


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One request: its length, itself, and stdin, stdout and stderr."""
    head, fds, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as file:
        return json.loads(file.read(int(head))), fds


def report_the_ended(waiting: dict[int, socket.socket]) -> None:
    """Tell whoever asked for a process that it has ended, and how."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with suppress(OSError), waiting.pop(ended[0]) as connection:
                connection.sendall(f"{ended[1]}\n".encode())


def become(asked: dict[str, Any], fds: list[int]) -> None:
    """Be in session, directory, environment and streams what was asked for."""
    for number in (signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if asked["session"]:
        os.setsid()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    show_environment(asked["env"])
    random.seed()


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
    # Collections in the forks would copy the pages of all that was imported.
    gc.collect()
    gc.freeze()
    asked = serve(sys.argv[1])
    if asked is not None:
        run(asked)


if __name__ == "__main__":
    main()
