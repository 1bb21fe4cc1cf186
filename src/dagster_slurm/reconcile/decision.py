"""Whether a run is orphaned, and how it ends then. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from dagster import DagsterRunStatus

from dagster_slurm.process_identity import Life

IN_PROGRESS = (
    # Not yet started counts for retries only that this package recorded: they are leased from the beginning.
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)


class Verdict(str, enum.Enum):
    """What was found about a run."""

    RUNNING = "running"
    """At least one of its processes lives."""
    ORPHANED = "orphaned"
    """Dagster holds it for running, and none of its processes lives."""
    ELSEWHERE = "elsewhere"
    """A process of it is of another machine or PID namespace, and is not known to be gone."""
    NOT_LEASED = "not leased"
    """No process said that it works on it: it is no run of ours, or had not come that far."""
    UNFINISHED = "unfinished"
    """It was marked failed, and its retry has not been made."""
    CANCELLING = "cancelling"
    """It was terminated, and its jobs could not be cancelled then."""
    OVER = "over"
    """It has ended, and nothing is left to do for it."""


class Ending(enum.Enum):
    """How an orphaned run is marked."""

    CANCELED = "canceled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


def verdict_of(lives: Sequence[Life], *, children_may_live: bool) -> Verdict:
    """What the processes of a run that is in progress say about it.

    Args:
        lives: What is known of each leased process.
        children_may_live: Whether an executor's child without a lease may still be at work on a step.
    """
    if not lives:
        return Verdict.NOT_LEASED
    if Life.ALIVE in lives:
        return Verdict.RUNNING
    if Life.UNKNOWN in lives:
        return Verdict.ELSEWHERE
    return Verdict.RUNNING if children_may_live else Verdict.ORPHANED


def ending_of(status: DagsterRunStatus, steps_left: Sequence[str] | None) -> Ending:
    """How an orphaned run ends.

    Args:
        status: What Dagster holds it for.
        steps_left: The steps that a re-execution from failure would execute; None if that cannot be told.
    """
    if status is DagsterRunStatus.CANCELING:
        # The user wanted it to end. That stands, whatever had been done until then.
        return Ending.CANCELED
    if steps_left is not None and not steps_left:
        # It died between its last step and the note that it succeeded. As a failed run it could never be finished:
        # Dagster refuses to retry nothing ("No steps needed to be retried in the failed run").
        return Ending.SUCCEEDED
    return Ending.FAILED
