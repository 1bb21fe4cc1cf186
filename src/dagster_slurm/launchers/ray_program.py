"""What ray.sh asks of Ray, run by the payload's Python.

`look`, `join ADDRESS SECONDS`, or `wait ADDRESS SECONDS NODES`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import socket
import sys
import time
from typing import Any

ALIVE = 0


def look() -> None:
    """VERSION PYTHON HAS_GRPC PORT, of which the last was free just now."""
    bound = socket.socket()
    bound.bind(("", 0))
    grpc = "yes" if importlib.util.find_spec("grpc") else "no"
    print(importlib.metadata.version("ray"), platform.python_version(), grpc, bound.getsockname()[1])


def client(address: str, until: float) -> Any:
    """Ray's own table; that is no public part, but `ray.init()` leaves a driver behind in the list of jobs."""
    # `look` does without Ray, whose import takes half a second.
    from ray._raylet import GcsClient  # type: ignore[import-not-found,attr-defined,unused-ignore]  # noqa: PLC0415

    while True:
        try:
            found = GcsClient(address=address)
            found.get_all_node_info()
            return found
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def alive(table: Any) -> set[str]:
    """The addresses of the nodes that are."""
    return {each.node_manager_address for each in table.get_all_node_info().values() if each.state == ALIVE}


def value(table: Any, key: bytes, namespace: bytes) -> str:
    """A text that the cluster keeps; empty if it has none."""
    found = table.internal_kv_get(key, namespace=namespace)
    return str(found.decode()) if found else ""


def wait(address: str, seconds: float, count: int) -> None:
    """The dashboard's address, `-` if there is none; or, with status 1, the addresses of those nodes that are there."""
    until = time.monotonic() + seconds
    table = client(address, until)
    while True:
        here = alive(table)
        if len(here) >= count:
            break
        if time.monotonic() > until:
            print(*sorted(here), flush=True)
            sys.exit(1)
        time.sleep(0.1)
    print(value(table, b"webui:url", b"dashboard") or "-")


def join(address: str, seconds: float) -> None:
    """Whether a cluster that is there is of the same versions as this Python; the server for clients looks itself."""
    if address.startswith("ray://"):
        return
    here = {"ray_version": importlib.metadata.version("ray"), "python_version": platform.python_version()}
    table = client(address, time.monotonic() + seconds)
    there = json.loads(value(table, b"CLUSTER_METADATA", b"cluster") or "{}")
    if there and there != {**there, **here}:
        sys.exit(f"{address} has {said(there)}, and the payload's environment on {socket.gethostname()} {said(here)}")


def said(versions: dict[str, str]) -> str:
    """Both versions, as in a message."""
    return f"Ray {versions.get('ray_version')} with Python {versions.get('python_version')}"


what, *given = sys.argv[1:]
if what == "look":
    look()
elif what == "join":
    join(given[0], float(given[1]))
else:
    wait(given[0], float(given[1]), int(given[2]))
