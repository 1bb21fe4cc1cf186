"""What is left to do before a project of 1.22 moves: its files, its jobs, and the runs that wait for these."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.compat.refused import PAGE
from dagster_slurm.compat.survey import Note, survey
from dagster_slurm.slurm.output import UserQueueEntry

JOB_TAG = "dagster_slurm/job_id"
_NAME = "dagster_"
# What ours are called, whatever their steps are.
_OURS = re.compile(r"-[0-9a-f]{12}(?:\.\d+\.\d+)?")


@dataclass(frozen=True)
class Waiting:
    """A run in progress that has a job of 1.22 in its tags.

    Args:
        run_id: The run.
        job_id: The job.
    """

    run_id: str
    job_id: str


@dataclass(frozen=True)
class Move:
    """What was found.

    Args:
        notes: What the files say.
        jobs: Jobs of 1.22 that Slurm still has, as "ID NAME STATE"; None if nobody was asked.
        runs: The runs that wait for them; None if nobody was asked.
        not_asked: Why, for what was not asked.
    """

    notes: tuple[Note, ...]
    jobs: tuple[str, ...] | None = None
    runs: tuple[Waiting, ...] | None = None
    not_asked: tuple[str, ...] = field(default_factory=tuple)

    @property
    def is_ready(self) -> bool:
        """Whether nothing has to be changed, and nothing waited for."""
        return not (any(note.has_to_change for note in self.notes) or self.jobs or self.runs)

    def as_json(self) -> dict[str, Any]:
        """As values of JSON."""
        return {**asdict(self), "is_ready": self.is_ready}

    def lines(self) -> Iterator[str]:
        """As text."""
        changes = [str(note) for note in self.notes if note.has_to_change]
        stays = [str(note) for note in self.notes if not note.has_to_change]
        yield from _part("Has to be changed", changes, "Nothing has to be changed in the files.")
        yield from _part("Runs unchanged, and may be written otherwise", stays)
        yield from _part("Jobs of 1.22 that Slurm still has: they are not taken up", self.jobs or ())
        runs = [f"{each.run_id} waits for job {each.job_id}" for each in self.runs or ()]
        yield from _part("Runs in progress with such a job", runs)
        yield from _part("Not asked", self.not_asked)
        yield f"{'Ready.' if self.is_ready else 'Not ready yet.'} The page: {PAGE}#the-afternoon"


def _part(title: str, lines: Sequence[str], otherwise: str = "") -> Iterator[str]:
    if lines:
        yield from (f"{title}:", *(f"  {line}" for line in lines), "")
    elif otherwise:
        yield from (otherwise, "")


def jobs_of_1_22(queue: Sequence[UserQueueEntry]) -> tuple[str, ...]:
    """Those that have not ended, by the name that 1.22 gives them: `dagster_` and the step. Pure."""
    entries = [each.entry for each in queue]
    return tuple(
        f"{entry.job_id} {entry.name} {entry.state.value}"
        for entry in entries
        if entry.name.startswith(_NAME) and not _OURS.search(entry.name) and not entry.state.is_terminal
    )


def looked_at(directory: Path, cluster: SlurmCluster | None, why_not: str = "") -> Move:
    """Look at a project.

    Args:
        directory: Where its files are.
        cluster: The cluster; None to ask none.
        why_not: Why none is asked.

    Raises:
        ConfigurationError: There is no such directory, or DAGSTER_HOME is not usable.
        DagsterSlurmError: The cluster does not answer.
    """
    notes = tuple(survey(directory))
    not_asked = [why_not] if cluster is None else []
    jobs = None if cluster is None else jobs_of_1_22(cluster.queue_of_user())
    runs = None
    if os.environ.get("DAGSTER_HOME", "").strip():
        runs = tuple(_runs())
    else:
        not_asked.append("DAGSTER_HOME is not set: which runs wait for a job of 1.22 is not known")
    return Move(notes, jobs, runs, tuple(not_asked))


def _runs() -> Iterator[Waiting]:
    # Dagster takes a second or two to load.
    from dagster import RunsFilter  # noqa: PLC0415

    from dagster_slurm.pipes.dagster_runs import instance_of_environment  # noqa: PLC0415
    from dagster_slurm.reconcile.decision import IN_PROGRESS  # noqa: PLC0415

    with instance_of_environment() as instance:
        for run in instance.get_runs(RunsFilter(statuses=list(IN_PROGRESS))):
            if JOB_TAG in run.tags:
                yield Waiting(run.run_id, run.tags[JOB_TAG])
