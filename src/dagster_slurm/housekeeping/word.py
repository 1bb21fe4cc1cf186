"""What Dagster says of a piece of work, as a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum


class RunStanding(Enum):
    """What Dagster's records say of a piece of work."""

    UNKNOWN = "its run is not known there"
    IN_PROGRESS = "a run of it is in progress"
    OVER = "its runs have ended, and its step has not succeeded"
    SUCCEEDED = "its step has succeeded, so that its result was collected"


@dataclass(frozen=True)
class Word:
    """What Dagster says.

    Args:
        standing: How the piece of work stands there.
        run_id: The newest run that works, or has worked, on it.
        status: That run's status; empty for an unknown one.
        over_seconds: How long ago the last of its runs ended; None if that is not known.
    """

    standing: RunStanding
    run_id: str = ""
    status: str = ""
    over_seconds: float | None = None


WordOf = Callable[[Sequence[str], str], Word]
"""Asks it, for the runs in which the work was asked for and its step."""
