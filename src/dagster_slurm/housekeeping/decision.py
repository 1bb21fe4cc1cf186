"""What of the leftovers is kept and what is removed, and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagster_slurm.housekeeping.seen import Fate
from dagster_slurm.housekeeping.word import RunStanding

HALF_MADE_SECONDS = 86400.0
"""An upload to which nobody has written for a day is dead; clean.sh looks at the same."""


@dataclass(frozen=True)
class Facts:
    """What is known of a piece of work.

    Args:
        unreadable: Why its directory cannot be judged; empty if it can.
        is_uploading: Whether something is just being sent there.
        live_jobs: Its jobs in the queue, in words.
        fate: What became of its job.
        has_checkpoint: Whether the job has left something from which the next one would go on.
        run: What Dagster's records say.
        run_id: The run to name.
        idle_seconds: For how long nothing has changed.
    """

    unreadable: str = ""
    is_uploading: bool = False
    live_jobs: Sequence[str] = ()
    fate: Fate = Fate.ENDED
    has_checkpoint: bool = False
    run: RunStanding = RunStanding.OVER
    run_id: str = ""
    idle_seconds: float = 0.0


@dataclass(frozen=True)
class Terms:
    """What the user has asked for.

    Args:
        older_than_seconds: What has changed since is kept, unless its result was collected.
        everything: Whether results that nobody collected, and what Dagster does not know, are removed as well.
        has_records: Whether there are records of Dagster to look at.
    """

    older_than_seconds: float = 3 * 86400.0
    everything: bool = False
    has_records: bool = True


@dataclass(frozen=True)
class Decision:
    """What is to become of something.

    Args:
        removed: Whether it is to be removed.
        reason: Why, or why not.
    """

    removed: bool
    reason: str


def decide(facts: Facts, terms: Terms) -> Decision:
    """Keep or remove a piece of work. Whatever is not known for certain keeps it."""
    if facts.unreadable:
        return _keep(facts.unreadable)
    if facts.live_jobs:
        return _keep(", ".join(facts.live_jobs))
    if facts.is_uploading:
        return _keep("something is being uploaded")
    if facts.run is RunStanding.SUCCEEDED:
        return _remove("its step has succeeded")
    if facts.run is RunStanding.IN_PROGRESS:
        return _keep(
            f"run {facts.run_id} is in progress; if its processes have died, `dagster-slurm reconcile` finishes it"
        )
    why, needs_all = _why(facts, terms)
    if needs_all and not terms.everything:
        return _keep(f"{why}; {_advice(facts)}")
    if facts.idle_seconds < terms.older_than_seconds:
        return _keep(f"{why}; younger than {duration(terms.older_than_seconds)} (--older-than)")
    return _remove(f"{why} (--all)" if needs_all else why)


def decide_half_made(idle_seconds: float) -> Decision:
    """Keep or remove what an upload has left half-made, or a directory with nothing in it."""
    if idle_seconds < HALF_MADE_SECONDS:
        return _keep(f"an upload may go on: last written to {duration(idle_seconds)} ago")
    return _remove(f"left by an upload that ended {duration(idle_seconds)} ago")


def duration(seconds: float) -> str:
    """A duration in its largest unit, rounded down: `3d`, `2h`, `5m`, `10s`."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def _why(facts: Facts, terms: Terms) -> tuple[str, bool]:
    """What is the matter with a piece of work that nobody works on, and whether it takes --all to remove it."""
    is_unknown = facts.run is RunStanding.UNKNOWN
    if facts.fate is Fate.COMPLETED:
        return "its result was never collected", True
    if facts.fate is Fate.NOT_KNOWN:
        return "it is not known how its job ended, nor whether there is a result", True
    if facts.has_checkpoint:
        return "its job has left a checkpoint, from which the next one goes on", True
    job = "it had no job" if facts.fate is Fate.NONE else "its job ended without success"
    if not is_unknown:
        return f"run {facts.run_id} is over, and {job}", False
    if not terms.has_records:
        return f"{job}, and without DAGSTER_HOME nothing is known of run {facts.run_id}", True
    return f"{job}, and Dagster does not know run {facts.run_id}", True


def _advice(facts: Facts) -> str:
    if facts.run is RunStanding.UNKNOWN:
        return "--all removes it"
    return f"re-execute run {facts.run_id} from failure, or --all"


def _keep(reason: str) -> Decision:
    return Decision(removed=False, reason=reason)


def _remove(reason: str) -> Decision:
    return Decision(removed=True, reason=reason)
