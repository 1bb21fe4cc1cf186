"""A step's calls to its cluster: repeated while that is away, and not without end while the run is terminated."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import TransportTimeoutError
from dagster_slurm.job.outage import until_answered
from dagster_slurm.pipes.interruptions import Interruptions
from dagster_slurm.pipes.step import Step

T = TypeVar("T")

# Of a cluster that this process has not reached: its address may be wrong, and nothing of this work is there.
_FIRST_CONTACT_SECONDS = 30.0
# Or a job of this work may be there, which nobody would follow.
_REATTACHING_SECONDS = 300.0
_LOOK_SECONDS = 0.2
_CANCEL_SECONDS = 300.0
_ANSWER_SECONDS = 30.0
# What was said of the way, in each run once.
_told: set[tuple[str, str]] = set()


class ClusterCalls:
    """The calls of one step.

    Args:
        step: The step.
        cluster: The cluster.
        interruptions: What may end a call before it has answered.
        may_be_submitted: Tells whether any process may have submitted what the calls are about; asked while the cluster
            is away.
    """

    def __init__(
        self, step: Step, cluster: SlurmCluster, interruptions: Interruptions, may_be_submitted: Callable[[], bool]
    ) -> None:
        self._may_be_submitted = may_be_submitted
        self._step = step
        self._cluster = cluster
        self._interruptions = interruptions
        self._cancel_until: float | None = None

    def persist(
        self, call: Callable[[], T], *, give_up_at: float = float("inf"), timeout_seconds: float | None = None
    ) -> T:
        """Make a call that may be made again, until it gives an answer.

        Args:
            call: The call.
            give_up_at: When it is not made again any more, by the monotonic clock.
            timeout_seconds: How long each try may take; None for as long as it takes.

        Raises:
            DagsterSlurmError: One that waiting does not mend.
            TerminationRequestedError: A user has terminated the run meanwhile.
            DagsterExecutionInterruptedError: The monitoring is to end.
        """
        return until_answered(
            lambda: self._made(call, timeout_seconds),
            tell=lambda text, level: self._step.log.log(level, text),
            reached=lambda: self._cluster.was_reached,
            first_contact_seconds=self._first_contact_seconds,
            sleep=self._interruptions.pause,
            give_up_at=give_up_at,
        )

    def _made(self, call: Callable[[], T], timeout_seconds: float | None) -> T:
        try:
            return self._beside(call, timeout_seconds)
        finally:
            remark = self._cluster.transport.remark
            told = (self._step.run.run_id if self._step.run else "", remark)
            if remark and told not in _told:
                _told.add(told)
                self._step.log.warning(remark)

    def _first_contact_seconds(self) -> float:
        return _REATTACHING_SECONDS if self._may_be_submitted() else _FIRST_CONTACT_SECONDS

    def persist_a_while(self, call: Callable[[], T]) -> T:
        """The same for a cancellation, which has five minutes from its first call on.

        Raises:
            DagsterSlurmError: One that waiting does not mend, or has not mended.
        """
        self._cancel_until = self._cancel_until or time.monotonic() + _CANCEL_SECONDS
        return self.persist(call, give_up_at=self._cancel_until, timeout_seconds=_ANSWER_SECONDS)

    def _beside(self, call: Callable[[], T], timeout_seconds: float | None) -> T:
        """Make a call that may take long beside this thread, which looks for interruptions meanwhile.

        A call that is left behind goes on by itself; what it does must be harmless then.

        Raises:
            TransportTimeoutError: It has not answered in time.
        """
        done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

        def work() -> None:
            try:
                done.put((True, call()))
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
                done.put((False, error))

        threading.Thread(target=work, name="dagster-slurm-call", daemon=True).start()
        give_up_at = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            try:
                succeeded, outcome = done.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                self._interruptions.check()
                if give_up_at is not None and time.monotonic() >= give_up_at:
                    said = f"no answer in {timeout_seconds:.0f} s"
                    raise TransportTimeoutError(said, host=self._cluster.host) from None
                continue
            if succeeded:
                return outcome  # type: ignore[no-any-return]
            raise outcome
