"""What a signal, or the state of the run, means for the job. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from dagster import DagsterRunStatus

_TERMINATED = frozenset({DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED})
_TAKEN_OVER = frozenset({DagsterRunStatus.FAILURE, DagsterRunStatus.SUCCESS})
_DELIBERATE_SECONDS = 1.0


class Intent(Enum):
    """What is wanted of a call that runs."""

    GO_ON = "monitor the job to its end"
    DETACH = "stop monitoring; the job goes on"
    CANCEL = "a user has terminated the run: cancel the job"


def decide_intent(
    status: DagsterRunStatus | None, signal_times: Sequence[float], is_executor_child: Callable[[], bool]
) -> Intent:
    """What is wanted.

    Only a user's termination cancels. The parent of an executor's child waits for it, so that one which went on
    would hold up a restart. A second signal in earnest ends the monitoring: Ctrl-C may arrive twice at once, from the
    terminal and from Dagster.

    Args:
        status: The run's; None if it is not known.
        signal_times: When signals arrived, in seconds.
        is_executor_child: Whether this process runs one step for an executor; asked only if it matters.
    """
    if status in _TERMINATED:
        return Intent.CANCEL
    if status in _TAKEN_OVER:
        # Somebody has marked the run; whoever retries it finds the job.
        return Intent.DETACH
    if not signal_times:
        return Intent.GO_ON
    if signal_times[-1] - signal_times[0] >= _DELIBERATE_SECONDS or is_executor_child():
        return Intent.DETACH
    return Intent.GO_ON
