"""What ray.sh asks of Ray, run by the payload's Python: `look`, `join ADDRESS SECONDS`, `wait ADDRESS SECONDS DIR N`."""

import importlib.metadata
import importlib.util
import json
import platform
import socket
import sys
import time
from pathlib import Path

ALIVE = 0


def look():
    """VERSION PYTHON HAS_GRPC PORT; the import of Ray itself would take half a second."""
    bound = socket.socket()
    bound.bind(("", 0))
    grpc = "yes" if importlib.util.find_spec("grpc") else "no"
    print(importlib.metadata.version("ray"), platform.python_version(), grpc, bound.getsockname()[1])


def client(address, until):
    """Ray's own table; that is no public part, but `ray.init()` leaves a driver behind in the list of jobs."""
    while True:
        try:
            from ray._raylet import GcsClient

            found = GcsClient(address=address)
            found.get_all_node_info()
            return found
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def alive(table):
    return {each.node_manager_address for each in table.get_all_node_info().values() if each.state == ALIVE}


def value(table, key, namespace):
    found = table.internal_kv_get(key, namespace=namespace)
    return found.decode() if found else ""


def wait(address, seconds, directory, count):
    """The dashboard's address, `-` if there is none; or the first node that is missing, and why."""
    until = time.monotonic() + seconds
    table = client(address, until)
    while True:
        here = alive(table)
        if len(here) >= count:
            break
        if time.monotonic() > until:
            print(missing(Path(directory), count, here), flush=True)
            sys.exit(1)
        time.sleep(0.1)
    print(value(table, b"webui:url", b"dashboard") or "-")


def missing(directory, count, here):
    for node in range(count):
        words = (directory / f"node.{node}").read_text().split()
        if not words:
            return f"{node} its task has not begun"
        if words[1] not in here:
            return f"{node} it has not joined the cluster"
    return ""


def join(address, seconds):
    """Whether a cluster that is there is of the same versions as this Python; the server for clients looks itself."""
    if address.startswith("ray://"):
        return
    here = {"ray_version": importlib.metadata.version("ray"), "python_version": platform.python_version()}
    table = client(address, time.monotonic() + seconds)
    there = json.loads(value(table, b"CLUSTER_METADATA", b"cluster") or "{}")
    if any(there.get(key, mine) != mine for key, mine in here.items()):
        sys.exit(
            f"{address} has Ray {there['ray_version']} with Python {there['python_version']}, and {socket.gethostname()}"
            f" has Ray {here['ray_version']} with Python {here['python_version']} in the payload's environment"
        )


what, *given = sys.argv[1:]
if what == "look":
    look()
elif what == "join":
    join(given[0], float(given[1]))
else:
    wait(given[0], float(given[1]), given[2], int(given[3]))
