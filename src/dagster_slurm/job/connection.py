"""What the steps of one process share for one cluster: the way to it, and the one watcher of its jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.job.watcher import JobWatcher


@dataclass(frozen=True)
class ClusterConnection:
    """A cluster and the watcher of its jobs."""

    cluster: SlurmCluster
    watcher: JobWatcher


_connections: dict[Hashable, ClusterConnection] = {}
_lock = threading.Lock()


def shared_connection(key: Hashable, build: Callable[[], ClusterConnection]) -> ClusterConnection:
    """The connection of this process for `key`, built when it is asked for first."""
    with _lock:
        if key not in _connections:
            _connections[key] = build()
        return _connections[key]
