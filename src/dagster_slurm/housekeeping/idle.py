"""What the allocations of sessions have held and not used. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from dagster_slurm.cluster.records import Listing
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.session import NAMED_SESSIONS
from dagster_slurm.slurm.efficiency import gpu_count
from dagster_slurm.slurm.output import AccountingRecord, AccountingStep
from dagster_slurm.slurm.quantities import parse_memory_bytes


def session_titles(listing: Listing) -> Mapping[str, str]:
    """What sessions are called, by the directories of their allocations' attempts."""
    attempts = (attempt for launch in listing.launches for attempt in launch.attempts)
    return {each.directory.relative: each.description.step_key for each in attempts if each.description.session}


def session_of(place: RunDirectory | None, titles: Mapping[str, str]) -> str:
    """Of which session a job is the allocation; empty for a job of another kind.

    Args:
        place: Its attempt; of one with a name, the place tells it where the directory is gone.
        titles: As of `session_titles`.
    """
    if place is None:
        return ""
    named = place.key.rpartition("-")[0].replace("-", " ", 1) if place.run == NAMED_SESSIONS else ""
    return titles.get(place.relative, named)


def idle_node_hours(record: AccountingRecord) -> float:
    """The node-hours of an allocation that no step of it has held.

    A step holds of its nodes what it has of their CPUs, or of the memory or the GPUs if that is more. One that runs
    beside another one, on what that holds, counts as well, so that it is no more than was idle.

    Args:
        record: That of the allocation, with its steps.
    """
    numbered = [step for step in record.steps if step.name.isdecimal()]
    held = sum(share_of(step, record.alloc_tres) * (step.elapsed_seconds or 0.0) for step in numbered)
    return round(max(0.0, (record.elapsed_seconds or 0.0) - held) * (record.node_count or 1) / 3600, 6)


def share_of(step: AccountingStep, whole: Mapping[str, str]) -> float:
    """How much of an allocation a step held, from 0 to 1.

    Args:
        step: The step.
        whole: The trackable resources of the allocation.
    """
    pairs = zip(_sizes(step.alloc_tres), _sizes(whole), strict=True)
    return min(1.0, max(part / all_of_it if all_of_it else 0.0 for part, all_of_it in pairs))


def _sizes(tres: Mapping[str, str]) -> tuple[float, float, float]:
    cpus, memory = tres.get("cpu", ""), tres.get("mem", "")
    return float(cpus) if cpus.isdecimal() else 0.0, parse_memory_bytes(memory) or 0.0, gpu_count(tres) or 0.0
