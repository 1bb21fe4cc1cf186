"""Lines in the mailboxes of sessions by which their dispatchers know that somebody may still need them.

Each process of a run renews a lease of each session that it has used, by a line that the dispatcher times itself, so
that no two clocks are compared. The end of the process, or of its part of the run, ends no session: it only stops
renewing. The run's own process says that the run has ended, so that a session of that run alone does not wait.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.session.relay import ASKED
from dagster_slurm.transport import Transport
from dagster_slurm.transport.base import CompletedCommand

# Of the idle timeout, and of the time in which a successor is queued; two may be lost.
_SHARE = 3
_LEAST_SECONDS = 5.0


@dataclass(frozen=True)
class Lease:
    """That of one run.

    Args:
        run_id: The run.
        transport: The way to the cluster.
        allocation: Where the session's allocation lies.
        idle_timeout_seconds: After how long without a line it ends.
        is_of_run: Whether the session is that run's alone.
        relay_seconds: How long before its walltime the allocation asks for a successor; 0 for never.
        queue_successor: Queues that, or finds it queued, and gives its lease; None if it could not, or has before.
    """

    run_id: str
    transport: Transport
    allocation: RunDirectory
    idle_timeout_seconds: float
    is_of_run: bool
    relay_seconds: int = 0
    queue_successor: Callable[[], Lease | None] | None = field(default=None, compare=False)


def renewal_seconds(leases: Collection[Lease]) -> float:
    """How often leases are renewed so that none is late. Pure."""
    idle = (lease.idle_timeout_seconds for lease in leases)
    relay = (lease.relay_seconds for lease in leases if lease.relay_seconds)
    return max(_LEAST_SECONDS, min((*idle, *relay)) / _SHARE)


def say(transport: Transport, allocation: RunDirectory, *words: str) -> bool:
    """Write a line into a mailbox; whether it was taken.

    Raises:
        TransportError: The cluster could not be reached.
    """
    return _said(transport, allocation, *words).returncode == 0


def _said(transport: Transport, allocation: RunDirectory, *words: str) -> CompletedCommand:
    return transport.command(("sh", f"{allocation.path}/work/mail.sh", allocation.path, "say", *words))


class Leases:
    """Those that this process renews, on a thread that lives while there are any."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def keep(self, lease: Lease) -> None:
        """Renew a lease from now on; its session has just had a request."""
        with self._lock:
            is_new = lease not in self._leases
            # The newest speaks for all that are the same.
            self._leases.discard(lease)
            self._leases.add(lease)
            # Not alive behind a fork.
            if self._thread is None or not self._thread.is_alive():
                self._wake = threading.Event()
                self._thread = threading.Thread(target=self._renew_all, name="dagster-slurm-leases", daemon=True)
                self._thread.start()
            elif is_new:
                # It may be shorter than the others.
                self._wake.set()

    def drop(self, run_id: str, *, has_ended: Callable[[], bool]) -> None:
        """Renew those of a run no more.

        Args:
            run_id: The run.
            has_ended: Whether the run has, with all of its steps.
        """
        with self._lock:
            dropped = {lease for lease in self._leases if lease.run_id == run_id}
            self._leases -= dropped
            if not self._leases:
                self._wake.set()
        if any(lease.is_of_run for lease in dropped) and has_ended():
            for lease in dropped:
                _end(lease)

    def _renew_all(self) -> None:
        who = f"{socket.gethostname().split('.')[0]}-{os.getpid()}"
        renewed_at = time.monotonic()
        while True:
            with self._lock:
                kept = list(self._leases)
                if not kept:
                    self._thread = None
                    return
                self._wake.clear()
            left = renewed_at + renewal_seconds(kept) - time.monotonic()
            if left > 0 and self._wake.wait(left):
                continue
            renewed_at = time.monotonic()
            for lease in kept:
                self._renew(lease, who)

    def _renew(self, lease: Lease, who: str) -> None:
        with suppress(DagsterSlurmError):
            # The next one may arrive.
            answer = _said(lease.transport, lease.allocation, "lease", who)
            if answer.returncode:
                with self._lock:
                    self._leases.discard(lease)
            elif lease.queue_successor is not None and answer.text.split() == [ASKED]:
                # sbatch may take longer than the others can wait for their renewal.
                work = partial(self._relay, lease, lease.queue_successor)
                threading.Thread(target=work, name="dagster-slurm-relay", daemon=True).start()

    def _relay(self, lease: Lease, queue: Callable[[], Lease | None]) -> None:
        successor = queue()
        if successor is None:
            return
        with self._lock:
            is_wanted = lease in self._leases
            if is_wanted:
                self._leases.add(successor)
        if not is_wanted:
            _end(successor)


def _end(lease: Lease) -> None:
    """Have the session end if it was of a run that has ended; another one, or one that is not reached, ends later."""
    if lease.is_of_run:
        with suppress(DagsterSlurmError):
            say(lease.transport, lease.allocation, "end")


LEASES = Leases()
"""Those of this process."""
