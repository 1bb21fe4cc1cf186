"""What one step found. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dagster_slurm.errors import DagsterSlurmError

Status = Literal["ok", "warning", "wrong", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What one step found; every text is one line.

    Args:
        step: The step's name.
        status: `ok`, `warning` (works, and should be looked at), `wrong`, or `skipped` (not checked).
        found: What is there; of a skipped step, why it was not checked.
        problem: What is wrong, a sentence without a stop.
        remedy: What to do about it.
    """

    step: str
    status: Status
    found: str = ""
    problem: str = ""
    remedy: str = ""

    def __post_init__(self) -> None:
        for name in ("found", "problem", "remedy"):
            object.__setattr__(self, name, " ".join(getattr(self, name).split()))


def fine(step: str, found: str) -> Finding:
    """All is well."""
    return Finding(step, "ok", found)


def warning(step: str, problem: str, remedy: str, found: str = "") -> Finding:
    """It works, and should be looked at."""
    return Finding(step, "warning", found, problem, remedy)


def wrong(step: str, problem: str, remedy: str, found: str = "") -> Finding:
    """It does not work."""
    return Finding(step, "wrong", found, problem, remedy)


def skipped(step: str, reason: str) -> Finding:
    """It was not checked."""
    return Finding(step, "skipped", reason)


def from_error(step: str, error: DagsterSlurmError, *, found: str = "", remedy: str = "") -> Finding:
    """It does not work, as an error says."""
    known = remedy or error.hint or "See the message; the pages on configuration and errors tell more."
    return wrong(step, error.message, known, found)
