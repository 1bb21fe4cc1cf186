"""Signals and terminations while a call runs: noticed at once, acted upon where it is safe.

Dagster turns SIGINT and SIGTERM into an exception at any bytecode of a step (1.13, `raise_execution_interrupts`), and
leaves SIGHUP to end the process. Between "submitted" and "written down" neither may happen.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import TracebackType
from typing import Any, TypeVar

from dagster import DagsterExecutionInterruptedError, DagsterRunStatus

from dagster_slurm.pipes.intent import Intent, decide_intent
from dagster_slurm.pipes.leases import is_executor_child
from dagster_slurm.pipes.signals import SHARED, STATUS_SECONDS, RunSignals
from dagster_slurm.pipes.step import Step

T = TypeVar("T")

_LOOK_SECONDS = 0.2
# No wider than the gap between any answer and what is done with it. With hundreds of steps at once, of which each looks
# twice, to read the status took a tenth of what the run cost.
_AFRESH_SECONDS = 0.2


class TerminationRequestedError(Exception):
    """A user has terminated the run: the job is to be cancelled."""


class Interruptions:
    """Stands between a call and what would interrupt it.

    On another thread than the main one no signal arrives; those of `threaded_executor` share what its main one hears.

    Args:
        step: The step.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._run = step.run
        shared = SHARED.find(self._run)
        self._signals = shared or RunSignals(step.instance if self._run else None, self._run)
        self._listening = nullcontext() if shared else self._signals.listen()
        self._told = 0
        self._status_error: Exception | None = None
        self._acted = False
        self._terminated = False

    def __enter__(self) -> Interruptions:
        self._listening.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.__exit__(kind, error, trace)

    @property
    def is_terminated(self) -> bool:
        """Whether a user has terminated the run, as far as `check` has seen."""
        return self._terminated

    @property
    def is_detached(self) -> bool:
        """Whether the monitoring is to end, as far as `check` has seen, and the job goes on."""
        return self._acted and not self._terminated

    def check(self, *, afresh: bool = False) -> None:
        """Act on what has happened, once.

        Args:
            afresh: Do not go by a status of some seconds ago.

        Raises:
            TerminationRequestedError: The job is to be cancelled.
            DagsterExecutionInterruptedError: The monitoring is to end; the job goes on.
        """
        if self._acted:
            return
        news = len(self._signals.times) > self._told
        # A termination is on record before its signal arrives.
        max_age_seconds = 0.0 if news else _AFRESH_SECONDS if afresh else STATUS_SECONDS
        intent = decide_intent(self._run_status(max_age_seconds), self._signals.times, self._is_executor_child)
        if intent is Intent.GO_ON:
            if news:
                self._tell_that_it_goes_on()
            return
        self._acted = True
        if intent is Intent.CANCEL:
            self._terminated = True
            self._keep_canceled()
            raise TerminationRequestedError
        raise DagsterExecutionInterruptedError

    def beside(self, call: Callable[[], T], *, timeout_seconds: float | None = None) -> T:
        """Make a call that may take long beside this thread, which looks for interruptions meanwhile.

        A call that is left behind goes on by itself; what it does must be harmless then.

        Raises:
            TimeoutError: It has not answered in time.
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
                self.check()
                if give_up_at is not None and time.monotonic() >= give_up_at:
                    raise TimeoutError(f"no answer in {timeout_seconds:.0f} s") from None
                continue
            if succeeded:
                return outcome  # type: ignore[no-any-return]
            raise outcome

    def pause(self, seconds: float) -> None:
        """Wait, and look for interruptions meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _LOOK_SECONDS))

    def _keep_canceled(self) -> None:
        """A run that was marked as canceled while its process lives would end as failed, and be retried (1.13)."""
        if self._run is not None and self._signals.status is DagsterRunStatus.CANCELED:
            self._step.instance.report_run_canceling(self._run, message="The run was marked as canceled.")

    def _tell_that_it_goes_on(self) -> None:
        self._told = len(self._signals.times)
        self._step.log.warning(
            "This process was asked to stop; it goes on monitoring its Slurm job. A second signal ends the monitoring "
            "and leaves the job alone; terminating the run in Dagster cancels the job."
        )

    def _is_executor_child(self) -> bool:
        return self._run is not None and is_executor_child(self._step.instance, self._run.run_id)

    def _run_status(self, max_age_seconds: float) -> DagsterRunStatus | None:
        status = self._signals.run_status(max_age_seconds=max_age_seconds)
        error = self._signals.error
        if error is not None and error is not self._status_error:
            self._step.log.debug(f"The run's status is not known now: {error!r}")
        self._status_error = error
        return status
