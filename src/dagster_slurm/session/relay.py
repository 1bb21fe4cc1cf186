"""The allocation that follows another one without a gap: when it is queued, and how. Pure.

A dispatcher writes into its mailbox that its walltime comes to an end; whoever renews a lease there reads that, and
queues the next allocation, by the gate that all attempts have. It begins when the other has ended: `--dependency` is
`afterany`, which is taken off as soon as a step waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol, TypeVar

from dagster_slurm.slurm.request import JobRequest

ASKED = "relay"
"""What the mailbox answers to a line when the dispatcher has asked for a successor."""

_SHARE_OF_WALLTIME = 4
_MOST_SECONDS = 3600


class Numbered(Protocol):
    """An attempt to have the allocation of a session."""

    @property
    def number(self) -> int:
        """Which it is."""

    @property
    def over(self) -> frozenset[str]:
        """What of it has left the queue: it itself, or nothing."""


N = TypeVar("N", bound=Numbered)


def lead_seconds(walltime_seconds: int | None, minutes: float | None) -> int:
    """How long before the end of its walltime the successor of an allocation is queued.

    Args:
        walltime_seconds: Of the allocation; None if it has none, or it is not known. There is no successor then.
        minutes: As asked for; None for a quarter of the walltime, at most an hour.

    Returns:
        Seconds, less than the walltime; 0 where there is no successor.
    """
    if not walltime_seconds:
        return 0
    asked = min(walltime_seconds // _SHARE_OF_WALLTIME, _MOST_SECONDS) if minutes is None else round(minutes * 60)
    return max(1, min(asked, walltime_seconds - 1))


def successor_request(request: JobRequest, job_id: str) -> JobRequest:
    """What is asked of Slurm for the successor of an allocation: the same, and that it begins when that has ended."""
    return replace(request, options={**request.options, "dependency": f"afterany:{job_id}"})


def to_be_used(known: Iterable[N], past: int) -> N | None:
    """Of the allocations of a session, that which takes steps: the oldest, since a younger one may not have begun.

    Args:
        known: Those that have jobs.
        past: Up to which number they are known to take no more.
    """
    return min(
        (each for each in known if each.number > past and not each.over), key=lambda each: each.number, default=None
    )
