"""From the watcher's events to Dagster: logs while the job runs, its messages, its end."""

from __future__ import annotations

import time

from dagster import DagsterExecutionInterruptedError, DagsterRunStatus, OpExecutionContext

from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.events import Broken, Ended, Event, Notice, Output, Started
from dagster_slurm.job.handle import JobHandle
from dagster_slurm.pipes.session import PayloadSession

_EVENT_SECONDS = 1.0


class JobFollower:
    """Follows one job to its end on the step's own thread.

    Args:
        step: The step's context.
        connection: The cluster.
        handle: The job.
        session: Where its output goes.
    """

    def __init__(
        self, step: OpExecutionContext, connection: ClusterConnection, handle: JobHandle, session: PayloadSession
    ) -> None:
        self._step = step
        self._connection = connection
        self._handle = handle
        self._session = session

    def follow(self, *, max_queue_seconds: float | None = None) -> Ended:
        """Pass on everything until the end.

        Args:
            max_queue_seconds: Cancel the job if it still waits in the queue after this time.

        Raises:
            DagsterSlurmError: The watcher could not go on; nothing follows about the job.
        """
        self._step.log.debug(self._connection.streaming(f"{self._handle.directory.path}/log"))
        subscription = self._connection.watcher.watch(self._handle)
        give_up_at = None if max_queue_seconds is None else time.monotonic() + max_queue_seconds
        try:
            while True:
                event = subscription.get(_EVENT_SECONDS)
                if isinstance(event, Started) or (give_up_at is not None and self._waited_until(give_up_at)):
                    give_up_at = None
                if isinstance(event, Ended):
                    self._session.reader.finish()
                    return event
                if event is not None:
                    self._pass_on(event)
        except (DagsterExecutionInterruptedError, KeyboardInterrupt):
            self._interrupted()
            raise
        finally:
            self._connection.watcher.forget(subscription)

    def _waited_until(self, moment: float) -> bool:
        """Cancel the job if that moment has come; Slurm leaves it alone if it has just started."""
        if time.monotonic() < moment:
            return False
        job_id = self._handle.job_id
        self._step.log.warning(f"Slurm job {job_id} has waited for max_queue_hours; cancelling it if it still waits")
        self._connection.cluster.cancel([job_id], only_pending=True)
        return True

    def _pass_on(self, event: Event) -> None:
        if isinstance(event, Output):
            self._session.take(event.stream, event.data)
        elif isinstance(event, Started):
            self._started(event)
        elif isinstance(event, Notice):
            self._step.log.log(event.level, event.text)
        elif isinstance(event, Broken):
            raise event.error

    def _started(self, event: Started) -> None:
        again = f" again (restart {event.restart}: the job was requeued)" if event.restart else ""
        if event.restart:
            self._session.reader.restart()
        self._step.log.info(f"Slurm job {self._handle.job_id} runs on {event.node}{again}")

    def _interrupted(self) -> None:
        """Only a user's termination cancels; whatever else ends this process leaves the job alone."""
        job_id = self._handle.job_id
        run = self._step.instance.get_run_by_id(self._step.run_id)
        if run is not None and run.status in (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED):
            self._step.log.info(f"The run is being terminated: cancelling Slurm job {job_id}")
            self._connection.cluster.cancel([job_id])
            return
        self._step.log.warning(
            f"This process is being stopped; Slurm job {job_id} goes on in {self._handle.directory.path}"
        )
