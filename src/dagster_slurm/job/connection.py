"""What the steps of one process share for one cluster: the way to it, and the one watcher of its jobs."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.job.watcher import JobWatcher, WatchIntervals
from dagster_slurm.transport import LocalTransport, OpenSSHTransport, SSHConnection, Transport


@dataclass(frozen=True)
class ClusterConnection:
    """A cluster and the watcher of its jobs."""

    cluster: SlurmCluster
    watcher: JobWatcher

    @property
    def is_shared(self) -> bool:
        """Whether its connection is one that all processes of this user share."""
        return self.cluster.transport.is_shared

    def streaming(self, path: str) -> str:
        """How the logs at a path come here, for the run's log."""
        if self.is_shared:
            return f"Streaming {path} over the shared connection (ControlMaster)"
        return f"Streaming {path} via polling fallback (ControlMaster unavailable)"


_transports: dict[SSHConnection | None, Transport] = {}
_connections: dict[Hashable, ClusterConnection] = {}
_lock = threading.Lock()


def shared_connection(ssh: SSHConnection | None, *, remote_base: str, intervals: WatchIntervals) -> ClusterConnection:
    """This process's connection to a cluster, made when it is asked for first.

    Args:
        ssh: The way to the login node; None runs Slurm's commands on this machine. Clusters that are configured
            differently but reached alike share it.
        remote_base: Directory there that holds the runs.
        intervals: How often to look.
    """
    key = (ssh, remote_base, intervals)
    with _lock:
        if ssh not in _transports:
            _transports[ssh] = OpenSSHTransport(ssh) if ssh else LocalTransport()
        if key not in _connections:
            cluster = SlurmCluster(_transports[ssh], remote_base=remote_base)
            _connections[key] = ClusterConnection(cluster, JobWatcher(cluster, intervals=intervals))
        return _connections[key]
