"""Which environments on a cluster are pruned. Pure, but for the look at the jobs."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments.inventory import Entry, Inventory, Standing
from dagster_slurm.housekeeping.leftovers import is_open
from dagster_slurm.housekeeping.listed_jobs import Fate, fate_of, snapshot

# A run that has found its environment may be about to submit.
_JUST_USED_SECONDS = 3600.0
# A builder of another machine may still be at it.
_HALF_MADE_SECONDS = 86400.0


@dataclass(frozen=True)
class PruneTerms:
    """What is to be pruned.

    Args:
        older_than_seconds: What was not used for so long.
        max_bytes: What is left is not to have more than this; the longest unused goes first. None for any size.
        deployed: Whether those that were deployed on purpose are pruned as well.
    """

    older_than_seconds: float
    max_bytes: int | None = None
    deployed: bool = False


@dataclass(frozen=True)
class Verdict:
    """What is to become of an entry, and why."""

    entry: Entry
    removed: bool
    reason: str


def paths_in_use(cluster: SlurmCluster) -> set[str]:
    """The environments of all jobs that have not provably ended.

    Raises:
        TransportError: The cluster could not be reached.
        SlurmUnavailableError: squeue has no answer.
    """
    seen = snapshot(cluster, is_open=is_open)
    going = [job for job in seen.jobs if fate_of(job, seen.accounting) in (Fate.LIVE, Fate.NOT_KNOWN) and job.attempt]
    return {path for job in going if job.attempt and (path := job.attempt.description.environment_path)}


def judge(inventory: Inventory, in_use: Set[str], terms: PruneTerms) -> list[Verdict]:
    """What is to become of each entry, the longest unused first."""
    verdicts = []
    left = sum(entry.size_bytes for entry in inventory.entries)
    for entry in sorted(inventory.entries, key=lambda each: each.used_epoch):
        idle = inventory.now_epoch - entry.used_epoch
        kept = _kept(entry, idle, in_use, terms)
        removed = "" if kept else _removed(entry, idle, terms, left)
        left -= entry.size_bytes if removed else 0
        verdicts.append(Verdict(entry, bool(removed), kept or removed or "it was used lately"))
    return verdicts


def _kept(entry: Entry, idle_seconds: float, in_use: Set[str], terms: PruneTerms) -> str:
    """Why an entry may not be removed, whatever is asked for; empty if it may."""
    if entry.path in in_use:
        return "a job runs in it, or may"
    if entry.standing is Standing.PARTIAL:
        return "" if idle_seconds > _HALF_MADE_SECONDS else "it may be being installed"
    if idle_seconds < _JUST_USED_SECONDS:
        return "it was used within the hour"
    return "it was deployed; --deployed prunes it" if entry.standing is Standing.DEPLOYED and not terms.deployed else ""


def _removed(entry: Entry, idle_seconds: float, terms: PruneTerms, left_bytes: int) -> str:
    """Why an entry that may be removed is; empty if it is not."""
    if entry.standing is Standing.PARTIAL:
        return "its installation has died"
    if entry.standing is Standing.SUPERSEDED:
        return "another one was pushed in its place"
    if idle_seconds > terms.older_than_seconds:
        return f"it was not used for {idle_seconds / 86400:.0f} days"
    if terms.max_bytes is not None and left_bytes > terms.max_bytes:
        return "all together have more than is asked for"
    return ""
