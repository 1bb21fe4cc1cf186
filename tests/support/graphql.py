"""What a person asks of Dagster's web server, as GraphQL; and a port for one."""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import Any


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
