"""Lines in the mailboxes of sessions by which their dispatchers know that somebody may still need them.

Each process of a run renews a lease of each session that it has used, by a line that the dispatcher times itself, so
that no two clocks are compared. The end of the process, or of its part of the run, ends no session: it only stops
renewing. The run's own process says that the run has ended, so that a session of that run alone does not wait.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.transport import Transport

# Of the idle timeout; two may be lost.
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
    """

    run_id: str
    transport: Transport
    allocation: RunDirectory
    idle_timeout_seconds: float
    is_of_run: bool


def say(transport: Transport, allocation: RunDirectory, *words: str) -> bool:
    """Write a line into a mailbox; whether it was taken.

    Raises:
        TransportError: The cluster could not be reached.
    """
    answer = transport.command(("sh", f"{allocation.path}/work/mail.sh", allocation.path, "say", *words))
    return answer.returncode == 0


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
            self._leases.add(lease)
            # Not alive behind a fork.
            if self._thread is None or not self._thread.is_alive():
                self._wake = threading.Event()
                self._thread = threading.Thread(target=self._renew_all, name="dagster-slurm-leases", daemon=True)
                self._thread.start()

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
                if lease.is_of_run:
                    with suppress(DagsterSlurmError):
                        # It ends by itself, later.
                        say(lease.transport, lease.allocation, "end")

    def _renew_all(self) -> None:
        who = f"{socket.gethostname().split('.')[0]}-{os.getpid()}"
        while True:
            with self._lock:
                kept = list(self._leases)
                if not kept:
                    self._thread = None
                    return
            pause = max(_LEAST_SECONDS, min(lease.idle_timeout_seconds for lease in kept) / _SHARE)
            if self._wake.wait(pause):
                continue
            for lease in kept:
                self._renew(lease, who)

    def _renew(self, lease: Lease, who: str) -> None:
        with suppress(DagsterSlurmError):
            # The next one may arrive.
            if not say(lease.transport, lease.allocation, "lease", who):
                with self._lock:
                    self._leases.discard(lease)


LEASES = Leases()
"""Those of this process."""
