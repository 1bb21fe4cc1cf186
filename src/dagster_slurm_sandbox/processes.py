"""Processes of this machine: a sandbox's own, and those of a Slurm that is in use here."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dagster_slurm.errors import SandboxError
from dagster_slurm.process_identity import stat_of
from dagster_slurm_sandbox.config import MARKER_VARIABLE
from dagster_slurm_sandbox.programs import system_environment

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process, for as long as the machine runs.

    Args:
        pid: Its id.
        start_ticks: When it was started, in clock ticks since boot (proc(5), /proc/PID/stat, field 22).
    """

    pid: int
    start_ticks: int


def identify(pid: int) -> Process | None:
    """The process that has this id now; None if there is none, or only what is left of one (a zombie)."""
    stat = stat_of(pid)
    return None if stat is None or stat.state in "ZX" else Process(pid, stat.start_ticks)


def is_alive(process: Process) -> bool:
    """Whether that very process is there and has not ended."""
    _reap(process.pid)
    return identify(process.pid) == process


def is_stopped(process: Process) -> bool:
    """Whether it is stopped by SIGSTOP."""
    stat = stat_of(process.pid)
    return stat is not None and stat.start_ticks == process.start_ticks and stat.state == "T"


def _reap(pid: int) -> None:
    # Only a child of this process can be reaped here; any other is reaped by its own parent.
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def send(process: Process, number: signal.Signals) -> bool:
    """Send a signal to that very process. False if it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except (ProcessLookupError, OSError):
        return False
    try:
        # The handle holds the id: from here on it cannot be given to another process.
        if identify(process.pid) != process:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def start(
    argv: Sequence[str], *, log: Path, environment: Mapping[str, str], on_start: Callable[[Process], None]
) -> Process:
    """Start a daemon in the foreground mode of its own, in a session of its own.

    Args:
        argv: The command.
        log: Where its stdout and stderr go.
        environment: Variables in addition to the small environment all daemons get.
        on_start: Called with the process, to note it.

    Raises:
        SandboxError: It ended at once.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=system_environment(environment),
            cwd="/",
            start_new_session=True,
        )
    process = identify(child.pid)
    # The object is not needed again, and its destructor would warn: `is_alive` reaps by id.
    child.returncode = 0
    if process is None:
        raise SandboxError(f"{argv[0]} ended at once", hint=f"See {log}.")
    on_start(process)
    return process


def found_by(name: str, value: str, *, timeout_seconds: float = 10.0) -> Process:
    """The oldest process with that environment variable, as soon as there is one.

    Raises:
        SandboxError: There is none.
    """
    deadline = time.monotonic() + timeout_seconds
    while not (found := matching(lambda directory: has_variable(directory, name, value))):
        if time.monotonic() > deadline:
            raise SandboxError(f"There is no process with {name}={value}", hint="It may have ended at once.")
        time.sleep(0.01)
    return min(found, key=lambda process: (process.start_ticks, process.pid))


def end(processes: Sequence[Process], *, grace_seconds: float = 0.0) -> None:
    """End processes: SIGTERM, then SIGKILL to those that are there after the grace period. Returns when gone.

    Raises:
        SandboxError: One cannot be ended (it hangs in the kernel).
    """
    if grace_seconds > 0:
        for process in processes:
            send(process, signal.SIGTERM)
            send(process, signal.SIGCONT)
        _wait_gone(processes, grace_seconds)
    for process in processes:
        send(process, signal.SIGKILL)
    if not _wait_gone(processes, 15):
        left = [process.pid for process in processes if is_alive(process)]
        raise SandboxError(f"Processes {left} cannot be ended", hint="Look at their state in /proc.")


def _wait_gone(processes: Sequence[Process], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while any(is_alive(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def pids() -> Iterator[int]:
    """The ids of all processes of this machine."""
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def descendants(process: Process) -> list[Process]:
    """Children, their children and so on, of that process."""
    if not is_alive(process):
        return []
    parents = {pid: stat.parent for pid in pids() if (stat := stat_of(pid))}
    found, frontier = [], {process.pid}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found += [each for pid in frontier if (each := identify(pid))]
    return found


def matching(test: Callable[[Path], bool]) -> list[Process]:
    """All processes, but this one, whose directory in /proc passes a test.

    Processes come and go while this looks at them; one that is gone does not match.
    """
    found = []
    for pid in pids():
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if pid != os.getpid() and test(_PROC / str(pid)) and (process := identify(pid)):
                found.append(process)
    return found


def has_variable(directory: Path, name: str, value: str | None = None) -> bool:
    """Whether a process was started with that environment variable; without a value, with any."""
    variables = (directory / "environ").read_bytes().split(b"\0")
    if value is None:
        return any(each.startswith(f"{name}=".encode()) for each in variables)
    return f"{name}={value}".encode() in variables


def in_network_namespace(directory: Path, inodes: frozenset[int]) -> bool:
    """Whether a process is in one of those network namespaces."""
    return (directory / "ns" / "net").stat().st_ino in inodes


def has_user(directory: Path, uid: int) -> bool:
    """Whether a process runs as that user (real or effective)."""
    for line in (directory / "status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("Uid:"):
            return str(uid) in line.split()[1:3]
    return False


# A munged by itself is no Slurm: Debian starts one wherever the package is installed, and ours has its own socket.
_DAEMONS = frozenset({"slurmctld", "slurmdbd", "slurmd"})


def other_slurm() -> dict[str, int]:
    """Daemons of Slurm in this machine's own network namespace that no sandbox has started."""
    here = frozenset({Path("/proc/self/ns/net").stat().st_ino})
    found = {}
    for process in matching(lambda directory: _is_foreign(directory, here)):
        name = (Path("/proc") / str(process.pid) / "comm").read_text(encoding="utf-8").strip()
        found[name] = process.pid
    return found


def _is_foreign(directory: Path, here: frozenset[int]) -> bool:
    # A sandbox's daemons, and those of a container, are in network namespaces of their own.
    name = (directory / "comm").read_text(encoding="utf-8").strip()
    if name not in _DAEMONS or not in_network_namespace(directory, here):
        return False
    return f"{MARKER_VARIABLE}=".encode() not in (directory / "environ").read_bytes()


def refuse_beside_slurm() -> None:
    """Refuse to start beside a Slurm in use.

    Raises:
        SandboxError: Its daemons run on this machine.
    """
    if found := other_slurm():
        named = ", ".join(f"{name} (process {pid})" for name, pid in sorted(found.items()))
        raise SandboxError(
            f"A Slurm installation is in use on this machine: {named}",
            hint="Run the sandbox on a machine, or in a container, of its own; it does not touch yours.",
        )
