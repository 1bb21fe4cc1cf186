"""What a sandbox has started and made, kept as JSON in its state directory."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox.config import CONTROL, SandboxConfig, SandboxPaths
from dagster_slurm_sandbox.network import Plan
from dagster_slurm_sandbox.processes import Process

SCHEMA_VERSION = 1
# `up` starts daemons in several threads.
_WRITING = threading.RLock()
_MACHINE_LOCK = "\0dagster-slurm-sandbox"


@dataclass
class State:
    """What `up` decided, made and started.

    Args:
        config: What the cluster was asked to look like.
        subnet: Its subnet.
        ssh_port: The login node's port on 127.0.0.1.
        strict_ssh_port: The strict login node's.
        login_name: The login node's host name.
        memory_reason: Why memory is not enforced; empty if it is.
        user_created: Whether the user was made by the sandbox.
        processes: The daemons, by name.
    """

    config: SandboxConfig
    subnet: str
    ssh_port: int
    strict_ssh_port: int
    login_name: str
    memory_reason: str
    user_created: bool = False
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def cgroups(self) -> bool:
        """Whether cgroups track jobs and hold them to their memory."""
        return not self.memory_reason

    def plan(self, paths: SandboxPaths) -> Plan:
        """The addresses and names of the cluster's hosts."""
        return Plan(tag=paths.tag, subnet=self.subnet, names=(CONTROL, *self.config.node_names))

    def to_json(self) -> str:
        """The state as text."""
        return json.dumps({"schema": SCHEMA_VERSION, **asdict(self)}, indent=2, default=dict) + "\n"


def from_json(text: str) -> State:
    """Read a state back.

    Raises:
        SandboxError: It was written by another version.
    """
    data: dict[str, Any] = json.loads(text)
    known = {"schema", *State.__dataclass_fields__}
    if data.pop("schema", None) != SCHEMA_VERSION or not data.keys() <= known:
        raise SandboxError(
            "The sandbox was brought up by another version of dagster-slurm",
            hint="Run `dagster-slurm sandbox down`, then `up`.",
        )
    processes = {name: Process(**each) for name, each in data.pop("processes").items()}
    return State(config=SandboxConfig(**data.pop("config")), processes=processes, **data)


@dataclass(frozen=True)
class Remains:
    """What has to be known of a sandbox to take it down.

    Args:
        processes: The daemons.
        user: The user that was made for it, if one was.
    """

    processes: tuple[Process, ...] = ()
    user: str | None = None


def remains(paths: SandboxPaths) -> Remains:
    """What is to be taken down, read also from a state that another version has written."""
    try:
        data: dict[str, Any] = json.loads(paths.state_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return Remains()
    noted = data.get("processes", {}).values()
    found = tuple(Process(int(each["pid"]), int(each["start_ticks"])) for each in noted)
    return Remains(found, data["config"]["user"] if data.get("user_created") else None)


def ports_of(paths: SandboxPaths) -> tuple[int, ...]:
    """The ports of a sandbox and its login nodes, whoever has written its state; none if there is no sandbox."""
    # Each login node has a directory that is named by its port.
    nodes = [int(path.name.rpartition("-")[2]) for path in paths.ssh.glob("login-[0-9]*")]
    try:
        data: dict[str, Any] = json.loads(paths.state_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return tuple(nodes)
    return (*nodes, *(int(data[name]) for name in ("ssh_port", "strict_ssh_port") if name in data))


def load(paths: SandboxPaths) -> State | None:
    """The state on disk, or None if there is no sandbox."""
    try:
        return from_json(paths.state_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def save(paths: SandboxPaths, state: State) -> None:
    """Write the state in one step: a reader, or a killed writer, never leaves half a file."""
    temporary = paths.state_file.with_suffix(".new")
    with _WRITING:
        temporary.write_text(state.to_json(), encoding="utf-8")
        temporary.replace(paths.state_file)


def note(paths: SandboxPaths, state: State, name: str, process: Process) -> None:
    """Note a daemon that was started, at once: a killed `up` must not lose sight of it."""
    with _WRITING:
        state.processes[name] = process
        save(paths, state)


@contextmanager
def locked(paths: SandboxPaths, *, timeout_seconds: float = 120) -> Iterator[None]:
    """Hold the sandbox's lock, for everything that changes it.

    Raises:
        SandboxError: Another process held it for all that time.
    """
    paths.lock_file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_seconds
    while (handle := _try_lock(paths.lock_file)) is None:
        if time.monotonic() > deadline:
            raise SandboxError(
                f"Another process has been changing the sandbox for {timeout_seconds:.0f} s",
                hint=f"Wait for it, or look who holds {paths.lock_file}.",
            )
        time.sleep(0.05)
    try:
        yield
    finally:
        if not paths.state_dir.exists():
            paths.lock_file.unlink(missing_ok=True)
            _remove_if_empty(paths.lock_file.parent)
        os.close(handle)


@contextmanager
def machine_locked(*, timeout_seconds: float = 120) -> Iterator[None]:
    """Hold this machine's lock, while subnets, ports and directories are chosen that all of its sandboxes share.

    It is the name of an abstract Unix socket (unix(7)): it has the scope of what it guards, a network namespace, holds
    for sandboxes of every base directory, and goes with its process.

    Raises:
        SandboxError: Another process held it for all that time.
    """
    deadline = time.monotonic() + timeout_seconds
    with socket.socket(socket.AF_UNIX) as lock:
        while not _try_bind(lock):
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"Other sandboxes have been coming up for {timeout_seconds:.0f} s",
                    hint=f"Look who holds the socket {_MACHINE_LOCK!r} in `ss -xap`.",
                )
            time.sleep(0.02)
        yield


def _try_bind(lock: socket.socket) -> bool:
    try:
        lock.bind(_MACHINE_LOCK)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def _try_lock(path: Path) -> int | None:
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last holder may have removed the file between our open and our lock.
        if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
            return handle
    except BlockingIOError:
        pass
    os.close(handle)
    return None


def _remove_if_empty(directory: Path) -> None:
    # A sandbox that comes up at this moment makes it not empty; a mount point of the machine's stays.
    with suppress(OSError):
        directory.rmdir()
