"""Processes of Python that are forked from one which has imported Dagster: 2 s of CPU less for each.

For tests of what a process does. Where its start is what is tested, it is started as users start it.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
FORKED = ("dagster", "dagster-slurm", "dg", "python", "python3")
PROGRAM = Path(__file__).with_name("forked_program.py")


class Process:
    """A process of the server's; as much of `subprocess.Popen` as tests use."""

    def __init__(self, argv: Sequence[str], connection: socket.socket) -> None:
        self.args = list(argv)
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None
        self._connection = connection
        self._answers = connection.makefile("r")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._answers.readline()))
            self._connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: It has not ended in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._connection], [], [], left)[0] and timeout is not None:
                raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Close its stdin, read all that it still says, and wait for its end.

        Raises:
            subprocess.TimeoutExpired: It has not ended in time after its last word.
        """
        if self.stdin is not None:
            self.stdin.close()
        assert self.stdout is not None
        with self.stdout:
            said = self.stdout.read()
        self.wait(timeout)
        return said, None

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


@cache
def _server() -> str:
    """The socket of this process's server, which ends with it."""
    directory = tempfile.mkdtemp(prefix="fork-", dir="/tmp")
    path = f"{directory}/socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forking_server", path],
        cwd=ROOT,
        # Room for the variables of the forks, see `show_environment`.
        env={**os.environ, "ROOM": "x" * 100_000},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"

    def end() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()
        shutil.rmtree(directory)

    atexit.register(end)
    return path


@cache
def programs() -> Path:
    """A directory for the PATH, with the programs of this virtual environment; Python and Dagster's are forked."""
    real = Path(sys.executable)
    directory = Path(_server()).with_name("bin")
    directory.mkdir()
    text = PROGRAM.read_text(encoding="utf-8").replace('SERVER = ""', f"SERVER = {_server()!r}")
    text = text.replace('PYTHON = ""', f"PYTHON = {str(real)!r}")
    for path in real.parent.iterdir():
        if path.name in FORKED:
            (directory / path.name).write_text(f"#!{real} -IS\n{text}", encoding="utf-8")
            (directory / path.name).chmod(0o755)
        else:
            (directory / path.name).symlink_to(path)
    return directory


def start(
    argv: Sequence[str],
    *,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[Any] = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    start_new_session: bool = False,
    children: bool = False,
) -> Process:
    """As `subprocess.Popen` of Python, `dagster` or `dagster-slurm`; with PIPE, stdin and stdout are of text.

    With `children`, the processes of Python that it starts (as Dagster does for steps) are forked as well.
    """
    pipes = _Pipes()
    given = pipes.end(stdin, 0)
    out = pipes.end(1 if stdout is None else stdout, 1)
    error = out if stderr == subprocess.STDOUT else _handle(2 if stderr is None else stderr)
    request = {
        "program": _program(argv),
        "cwd": str(cwd or Path.cwd()),
        "env": dict(os.environ if env is None else env),
        "session": start_new_session,
        "executable": str(programs() / "python") if children else "",
    }
    data = json.dumps(request).encode()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(_server())
    socket.send_fds(connection, [f"{len(data):8}".encode()], [given, out, error])
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    process = Process(argv, connection)
    pipes.give(process)
    return process


class _Pipes:
    """Those to and from a process."""

    def __init__(self) -> None:
        self._ours: dict[int, int] = {}
        self._theirs: list[int] = []

    def end(self, stream: int | IO[Any], number: int) -> int:
        """What the process gets under that number."""
        if stream != subprocess.PIPE:
            return _handle(stream)
        read, write = os.pipe()
        ours, theirs = (write, read) if number == 0 else (read, write)
        self._ours[number] = ours
        self._theirs.append(theirs)
        return theirs

    def give(self, process: Process) -> None:
        """The process has its ends; these are the others."""
        for fd in self._theirs:
            os.close(fd)
        if 0 in self._ours:
            process.stdin = os.fdopen(self._ours[0], "w")
        if 1 in self._ours:
            process.stdout = os.fdopen(self._ours[1])


def run(
    argv: Sequence[str],
    *,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    children: bool = False,
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with captured text.

    Raises:
        subprocess.TimeoutExpired: It has not ended in time; it is killed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        process = start(argv, cwd=cwd, env=env, stdout=out, stderr=error, children=children)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(list(argv), code, _text(out), _text(error))


@cache
def _nothing() -> int:
    return os.open(os.devnull, os.O_RDWR)


def _handle(stream: int | IO[Any]) -> int:
    if isinstance(stream, int):
        return _nothing() if stream == subprocess.DEVNULL else stream
    return stream.fileno()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _program(argv: Sequence[str]) -> list[str]:
    """What is run, as kind, name and arguments."""
    first, *rest = argv
    modules = {"dagster": "dagster", "dagster-slurm": "dagster_slurm.cli"}
    if Path(first).name in modules:
        return ["module", modules[Path(first).name], *rest]
    assert first == sys.executable, f"{first} cannot be forked"
    if rest[0] in ("-m", "-c"):
        return ["module" if rest[0] == "-m" else "text", *rest[1:]]
    return ["script", *rest]
