"""From the watcher's events to Dagster: logs while the job runs, its messages, its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.events import Broken, Ended, Event, Notice, Output, QueueLeft, Started, StateChanged, Waiting
from dagster_slurm.job.handle import JobHandle
from dagster_slurm.job.waiting import line_of
from dagster_slurm.pipes.interruptions import Interruptions, TerminationRequestedError
from dagster_slurm.pipes.session import PayloadSession
from dagster_slurm.pipes.step import Step
from dagster_slurm.pipes.teller import Teller

_EVENT_SECONDS = 0.5
# Longer than KillWait, 30 s by default (slurm.conf(5)): a payload may take its time to end.
_CONFIRM_SECONDS = 60.0
_TOUCH_SECONDS = 3600.0
_told_ways: set[tuple[str, bool]] = set()


class JobFollower:
    """Follows one job to its end on the step's own thread.

    Args:
        step: The step.
        connection: The cluster.
        handle: The job.
        session: Where its output goes.
        interruptions: What may end the following before.
        teller: Writes the lines about the job.
    """

    def __init__(
        self,
        step: Step,
        connection: ClusterConnection,
        handle: JobHandle,
        session: PayloadSession,
        interruptions: Interruptions,
        teller: Teller,
    ) -> None:
        self._step = step
        self._connection = connection
        self._handle = handle
        self._session = session
        self._interruptions = interruptions
        self._touch_due = time.monotonic() + _TOUCH_SECONDS
        self._teller = teller
        self.gave_up_waiting = False

    def follow(self, *, max_queue_seconds: float | None, cancel: Callable[[], object]) -> Ended | None:
        """Pass on everything until the end.

        Args:
            max_queue_seconds: Cancel the job if it still waits in the queue after this time.
            cancel: Cancels it; called when a user terminates the run.

        Returns:
            How it ended; None if it was cancelled, and Slurm has not confirmed its end in time.

        Raises:
            DagsterExecutionInterruptedError: The monitoring is to end; the job goes on.
            DagsterSlurmError: The watcher could not go on; nothing follows about the job.
        """
        self._tell_of_the_way()
        subscription = self._connection.watcher.watch(self._handle)
        queue_limit = None if max_queue_seconds is None else time.monotonic() + max_queue_seconds
        confirm_until: float | None = None
        try:
            while confirm_until is None or time.monotonic() < confirm_until:
                event = subscription.get(_EVENT_SECONDS)
                if isinstance(event, Started) or self._waited_until(queue_limit):
                    queue_limit = None
                if isinstance(event, Ended):
                    self._session.reader.finish()
                    return event
                if event is not None:
                    self._pass_on(event)
                self._stay_fresh()
                if confirm_until is None and self._is_terminated():
                    cancel()
                    confirm_until = time.monotonic() + _CONFIRM_SECONDS
            return None
        finally:
            self._connection.watcher.forget(subscription)
            self._teller.finish()

    def _tell_of_the_way(self) -> None:
        """How the logs come here; for each run once, since a line in its log costs more than the reading."""
        run = self._step.run
        told = (run.run_id if run else "", self._connection.is_shared)
        if run is None or told not in _told_ways:
            _told_ways.add(told)
            self._tell("debug", self._connection.streaming(f"{self._handle.directory.path}/log"))

    def _is_terminated(self) -> bool:
        try:
            self._interruptions.check()
        except TerminationRequestedError:
            return True
        return False

    def _waited_until(self, moment: float | None) -> bool:
        """Cancel the job if that moment has come; Slurm leaves it alone if it has just started."""
        if moment is None or time.monotonic() < moment:
            return False
        self.gave_up_waiting = True
        job_id = self._handle.job_id
        self._step.log.warning(f"Slurm job {job_id} has waited for max_queue_hours; cancelling it if it still waits")
        self._interruptions.beside(lambda: self._connection.cluster.cancel([job_id], only_pending=True))
        return True

    def _stay_fresh(self) -> None:
        """Sites and users remove what was not touched for days; a job that waits in the queue cannot touch anything."""
        if time.monotonic() < self._touch_due:
            return
        self._touch_due = time.monotonic() + _TOUCH_SECONDS
        threading.Thread(target=self._touch, name="dagster-slurm-touch", daemon=True).start()

    def _touch(self) -> None:
        with suppress(DagsterSlurmError):
            # The next hour is early enough.
            self._connection.cluster.touch(self._handle.directory)

    def _pass_on(self, event: Event) -> None:
        if isinstance(event, Output):
            self._session.take(event.stream, event.data)
        elif isinstance(event, Started):
            self._started(event)
        elif isinstance(event, (Waiting, StateChanged, QueueLeft)):
            self._tell(*line_of(self._handle.job_id, event))
        elif isinstance(event, Notice):
            self._tell(event.level, event.text)
        elif isinstance(event, Broken):
            raise event.error

    def _started(self, event: Started) -> None:
        again = f" again (restart {event.restart}: the job was requeued)" if event.restart else ""
        if event.restart:
            self._session.reader.restart()
        self._tell("info", f"Slurm job {self._handle.job_id} runs on {event.node}{again}")

    def _tell(self, level: str, text: str) -> None:
        self._teller.tell(lambda: self._step.log.log(level, text))
