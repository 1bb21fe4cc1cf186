"""What the steps of one process share for one cluster: the way to it, and the one watcher of its jobs."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.shared import Admissions, SharedDirectory
from dagster_slurm.job.backoff import WatchIntervals
from dagster_slurm.job.watcher import JobWatcher
from dagster_slurm.transport import LocalTransport, OpenSSHTransport, SSHConnection, Transport
from dagster_slurm.transport.pool import refuse_foreign


class SubmissionTurns:
    """Gives everybody who wants to submit a turn of their own.

    Args:
        per_second: How many there are in a second, on average; None for as many as are asked for.
        now: The clock, in seconds.
    """

    def __init__(self, per_second: float | None = None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._pause_seconds = 1.0 / per_second if per_second else 0.0
        self._now = now
        self._next = float("-inf")
        self._lock = threading.Lock()

    def take(self) -> float:
        """Take the next turn.

        Returns:
            How long it is until then, in seconds.
        """
        with self._lock:
            now = self._now()
            turn = max(now, self._next)
            self._next = turn + self._pause_seconds
            return turn - now


@dataclass(frozen=True)
class ClusterConnection:
    """A cluster, the watcher of its jobs, the turns to submit there, and where the site has a page of each job."""

    cluster: SlurmCluster
    watcher: JobWatcher
    turns: SubmissionTurns = field(default_factory=SubmissionTurns)
    job_url: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether its connection is one that all processes of this user share."""
        return self.cluster.transport.is_shared

    def streaming(self, path: str) -> str:
        """How the logs at a path come here, for the run's log."""
        if self.is_shared:
            return f"Streaming {path} over the shared connection (ControlMaster)"
        return f"Streaming {path} via polling fallback (ControlMaster unavailable)"


_UNUSED_SECONDS = 7 * 86400.0
# Of a user whose clusters come and go, as in tests, there are thousands, and each process would look at them all.
_SWEEP_SECONDS = 3600.0

_transports: dict[SSHConnection | None, Transport] = {}
_connections: dict[Hashable, ClusterConnection] = {}
_lock = threading.Lock()


def shared_connection(
    ssh: SSHConnection | None,
    *,
    remote_base: str,
    intervals: WatchIntervals,
    max_submissions_per_second: float | None = None,
    shares_environments: bool = False,
) -> ClusterConnection:
    """This process's connection to a cluster, made when it is asked for first.

    Args:
        ssh: The way to the login node; None runs Slurm's commands on this machine. Clusters that are configured
            differently but reached alike share it.
        remote_base: Directory there that holds the runs.
        intervals: How often to look.
        max_submissions_per_second: How many jobs are submitted in a second at most; None for as many as it answers.
        shares_environments: Whether the group may read the environments there.
    """
    key = (ssh, remote_base, intervals, max_submissions_per_second, shares_environments)
    with _lock:
        if ssh not in _transports:
            _transports[ssh] = OpenSSHTransport(ssh) if ssh else LocalTransport()
        if key not in _connections:
            place = _shared_place(ssh)
            admissions = Admissions(SharedDirectory(place.with_name(f"{place.name}.admissions")))
            cluster = SlurmCluster(
                _transports[ssh],
                remote_base=remote_base,
                admissions=admissions,
                shares_environments=shares_environments,
            )
            watcher = JobWatcher(cluster, intervals=intervals, shared=place)
            _connections[key] = ClusterConnection(cluster, watcher, SubmissionTurns(max_submissions_per_second))
        return _connections[key]


def _shared_place(ssh: SSHConnection | None) -> Path:
    """Where this user's processes share what the cluster has answered: those that reach it alike, on this machine."""
    directory = shared_directory()
    _sweep(directory)
    way = ssh.way() if ssh else (os.environ.get("SLURM_CONF"),)
    name = hashlib.sha256(repr(way).encode()).hexdigest()[:16]
    return directory / f"answers-{name}"


def shared_directory() -> Path:
    """Where that lies; nothing is shared where it is not this user's alone."""
    # A local directory: locks on a shared file system are slow, and other machines have other clocks.
    return Path(tempfile.gettempdir()) / f"dagster-slurm-{os.getuid()}"


def _sweep(directory: Path) -> None:
    """Remove what nobody has written to for long, of clusters that are not used any more; once in a while."""
    swept = directory / "swept"
    with suppress(OSError):
        refuse_foreign(directory)
        if not swept.exists() or time.time() - swept.lstat().st_mtime > _SWEEP_SECONDS:
            swept.touch()
            _remove_unused(directory)


def _remove_unused(directory: Path) -> None:
    with os.scandir(directory) as entries:
        for found in entries:
            with suppress(OSError):
                age = time.time() - found.stat(follow_symlinks=False).st_mtime
                if found.name.startswith("answers-") and age > _UNUSED_SECONDS:
                    shutil.rmtree(found.path)
