"""What a person asks of Dagster's web server, as GraphQL; and a port for one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .waiting import eventually


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def ask(port: int, query: str, **variables: object) -> dict[str, Any]:
    """One request; what it has asked for, by name.

    Raises:
        OSError: Nobody answers.
    """
    data = json.dumps({"query": query, "variables": variables}).encode()
    address = f"http://127.0.0.1:{port}/graphql"
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60.0) as answer:
        said: dict[str, Any] = json.loads(answer.read())
    assert "errors" not in said, said
    return dict(said["data"])


@contextmanager
def served(command: str, *, cwd: Path, env: Mapping[str, str], log: Path, assets: int = 0) -> Iterator[int]:
    """Have a command of a shell serve the UI, and return its port when it knows so many assets.

    It is killed, with the servers it started: it keeps nothing that could be lost.
    """
    port = free_port()
    with log.open("wb") as output:
        server = subprocess.Popen(
            ["bash", "-c", f"{command} --port {port}"],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        eventually(lambda: _knows(port, assets), lambda: f"the web server: {log.read_text()}")
        yield port
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


def _knows(port: int, assets: int) -> bool:
    with suppress(OSError):
        return len(ask(port, "{ assetNodes { id } }")["assetNodes"]) >= assets
    return False
