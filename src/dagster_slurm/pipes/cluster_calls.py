"""A step's calls to its cluster: repeated while that is away, and not without end while the run is terminated."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import TransportTimeoutError
from dagster_slurm.job.persistence import Persistence
from dagster_slurm.pipes.interruptions import Interruptions
from dagster_slurm.pipes.step import Step

T = TypeVar("T")

_CANCEL_SECONDS = 300.0
_ANSWER_SECONDS = 30.0


class ClusterCalls:
    """The calls of one step.

    Args:
        step: The step.
        cluster: The cluster.
        interruptions: What may end a call before it has answered.
    """

    def __init__(self, step: Step, cluster: SlurmCluster, interruptions: Interruptions) -> None:
        self._step = step
        self._cluster = cluster
        self._interruptions = interruptions
        self._persistence = self._persisting()
        self._cancelling: Persistence | None = None

    def _persisting(self, give_up_at: float = float("inf")) -> Persistence:
        return Persistence(
            tell=lambda text, level: self._step.log.log(level, text),
            reached=lambda: self._cluster.was_reached,
            sleep=self._interruptions.pause,
            give_up_at=give_up_at,
        )

    def persist(self, call: Callable[[], T]) -> T:
        """Make a call that may be made again, until it gives an answer.

        Raises:
            DagsterSlurmError: One that waiting does not mend.
            TerminationRequestedError: A user has terminated the run meanwhile.
            DagsterExecutionInterruptedError: The monitoring is to end.
        """
        return self._persistence(lambda: self._interruptions.beside(call))

    def persist_a_while(self, call: Callable[[], T]) -> T:
        """The same for a cancellation, which has five minutes from its first call on.

        Raises:
            DagsterSlurmError: One that waiting does not mend, or has not mended.
        """
        self._cancelling = self._cancelling or self._persisting(time.monotonic() + _CANCEL_SECONDS)
        return self._cancelling(lambda: self._in_time(call))

    def _in_time(self, call: Callable[[], T]) -> T:
        try:
            return self._interruptions.beside(call, timeout_seconds=_ANSWER_SECONDS)
        except TimeoutError as error:
            raise TransportTimeoutError(str(error), host=self._cluster.host) from error
