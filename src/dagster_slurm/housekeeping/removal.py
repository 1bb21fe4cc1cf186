"""What launches take up on a cluster, measured in one step, and removed in one, if it is still as it was listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import TransportError
from dagster_slurm.transport.base import reading, whole_number

_REMOVAL_SECONDS = 3600.0


def sizes_kib(cluster: SlurmCluster, paths: Sequence[str]) -> Mapping[str, int]:
    """What directories take up, in KiB, by their path below `remote_base`; what is not there is left out."""
    if not paths:
        return {}
    with reading("The sizes of launches", host=cluster.host):
        rows = (line.split("\t", 1) for line in _run(cluster, "sizes.sh", paths).splitlines())
        return {path: whole_number(kib) for kib, path in rows}


def remove(cluster: SlurmCluster, orders: Sequence[str]) -> tuple[str, ...]:
    """Remove what is still as it was listed.

    Args:
        cluster: The cluster.
        orders: Lines for clean.sh.

    Returns:
        Those of them that were not carried out, without what follows the path.

    Raises:
        TransportError: The connection broke; what was removed is gone, and the rest can be removed again.
    """
    if not orders:
        return ()
    rows = (line.partition(" ") for line in _run(cluster, "clean.sh", orders).splitlines())
    removed = {order for outcome, _, order in rows if outcome == "removed"}
    asked = (" ".join(order.split(" ")[:2]) for order in orders)
    return tuple(order for order in asked if order not in removed)


def _run(cluster: SlurmCluster, name: str, lines: Sequence[str]) -> str:
    stdin = "".join(f"{line}\n" for line in lines).encode()
    answer = cluster.script(name, (cluster.base(),), stdin=stdin, timeout_seconds=_REMOVAL_SECONDS)
    if answer.returncode:
        raise TransportError(f"{name}: {answer.reason}", host=cluster.host)
    return answer.text
