"""Waiting for something to become true, by looking, with a limit."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

from dagster_slurm.errors import SandboxError


def wait_until(
    ready: Callable[[], bool],
    what: str,
    *,
    timeout_seconds: float = 60,
    log: Path | None = None,
    broken: Callable[[], bool] = lambda: False,
    pause_seconds: float = 0.03,
) -> None:
    """Wait until `ready()` is true.

    Args:
        ready: Looks once.
        what: What is waited for, as the subject of "is not ready".
        timeout_seconds: For how long to look.
        log: A log whose end belongs into the error.
        broken: Tells that there is no use in waiting on.
        pause_seconds: Pause between two looks.

    Raises:
        SandboxError: Not true in time, or broken.
    """
    deadline = time.monotonic() + timeout_seconds
    while not ready():
        if broken() or time.monotonic() > deadline:
            how = "has ended" if broken() else f"is not ready after {timeout_seconds:.0f} s"
            hint = f"The end of {log}:\n{tail(log)}" if log else "See `dagster-slurm sandbox status`."
            raise SandboxError(f"{what} {how}", hint=hint)
        time.sleep(pause_seconds)


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a file; empty if there is none."""
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def accepts_connections(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def sends_banner(host: str, port: int, *, timeout_seconds: float = 2.0) -> bool:
    """Whether an SSH server answers there; one that is stopped accepts connections and says nothing."""
    try:
        with socket.create_connection((host, port), timeout=timeout_seconds) as connection:
            connection.settimeout(timeout_seconds)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
