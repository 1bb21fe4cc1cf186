"""Launches that share a job, because one has adopted another's, are one piece of work. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dagster_slurm.cluster.description import Description
from dagster_slurm.cluster.records import AttemptRecord, LaunchRecord, Listing


@dataclass(frozen=True)
class Piece:
    """What is kept or removed together.

    Args:
        launches: The launch whose job it is first, then those that have adopted it.
    """

    launches: tuple[LaunchRecord, ...]

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        """All attempts that lie in it."""
        return tuple(attempt for launch in self.launches for attempt in launch.attempts)

    @property
    def description(self) -> Description:
        """Which piece of work it is, as its newest attempt tells."""
        return self.attempts[-1].description if self.attempts else Description()

    @property
    def origin_run_ids(self) -> tuple[str, ...]:
        """The runs in which it was asked for; a run's directory has the name of the run."""
        told = [attempt.description.origin_run_id for attempt in self.attempts]
        return tuple(dict.fromkeys(filter(None, [*told, *(launch.run for launch in self.launches)])))


def pieces_of(listing: Listing) -> list[Piece]:
    """All pieces of work that lie there, in the order of their directories. What is empty or only half-made is none."""
    launches = {launch.path: launch for launch in listing.launches if _is_more_than_half_made(launch)}
    group = {path: {path} for path in launches}
    for launch in launches.values():
        for target in launch.adopted.values():
            other = target.rpartition("/")[0]
            if other in group:
                joined = group[launch.path] | group[other]
                group.update(dict.fromkeys(joined, joined))
    distinct = {min(paths): paths for paths in group.values()}
    return [Piece(_owners_first(launches[path] for path in sorted(paths))) for _, paths in sorted(distinct.items())]


def _is_more_than_half_made(launch: LaunchRecord) -> bool:
    return bool(launch.attempts or launch.adopted or launch.unknown) or launch.checkpoint is not None


def _owners_first(launches: Iterable[LaunchRecord]) -> tuple[LaunchRecord, ...]:
    return tuple(sorted(launches, key=lambda launch: (not launch.attempts, launch.path)))
