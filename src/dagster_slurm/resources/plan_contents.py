"""What a planned job has in its working directory, and how many tasks it has: known on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.job.batch_script import env_file
from dagster_slurm.launchers import work_files
from dagster_slurm.pipes.partition_results import checked_max_parallel, partitions_of, refuse_outputs
from dagster_slurm.pipes.step import Step
from dagster_slurm.resources.call import Work
from dagster_slurm.resources.job_plan import PlannedFile, PlannedUpload
from dagster_slurm.slurm.arrays import array_option
from dagster_slurm.staging import Staging, plan_staging
from dagster_slurm.transport import TreeEntry


@dataclass(frozen=True)
class Tasks:
    """The partitions of `run_partitions`, as the tasks of one job array.

    Args:
        count: How many there are.
        max_parallel: How many run at once; None for no limit.

    Raises:
        InvalidRequestError: One is not a positive number.
    """

    count: int
    max_parallel: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no number of tasks."""
        if isinstance(self.count, bool) or self.count < 1:
            raise InvalidRequestError(f"partitions is {self.count!r}", hint="Give a number from 1 on, or None.")
        checked_max_parallel(self.max_parallel)

    @classmethod
    def of(cls, step: Step, max_parallel: int | None) -> Tasks:
        """Those of a step.

        Raises:
            InvalidRequestError: It has none.
        """
        return cls(len(partitions_of(step)), max_parallel)

    @property
    def option(self) -> str:
        """What `--array` is given."""
        return array_option(self.count, self.max_parallel)


@dataclass(frozen=True)
class Contents:
    """What lies in the working directory."""

    payload: Sequence[TreeEntry]
    extra: Sequence[TreeEntry]
    staging: Staging

    @classmethod
    def of(cls, work: Work, tasks: Tasks | None) -> Contents:
        """As the clients have it.

        Raises:
            InvalidRequestError: A file is not there, a name is taken, a variable has no name a shell takes.
        """
        env_file(work.extra_env or {})
        files = work_files(work.payload, work.extra_files)
        count = len(work_files(work.payload, None))
        staging = plan_staging(work.data, uploaded=[entry.name for entry in files])
        if tasks is not None:
            refuse_outputs(staging)
        return cls(files[:count], files[count:], staging)

    def uploads(self, *, payload_note: str = "") -> tuple[PlannedUpload, ...]:
        """Those that every job gets for itself."""
        made = [PlannedUpload("payload", files_of(self.payload), payload_note)]
        made += [PlannedUpload("extra files", files_of(self.extra))] if self.extra else []
        return tuple(made)


def files_of(entries: Sequence[TreeEntry]) -> tuple[PlannedFile, ...]:
    """Files that each job gets for itself."""
    return tuple(
        PlannedFile(entry.name, len(entry.source) if isinstance(entry.source, bytes) else _size(entry.source), False)
        for entry in entries
    )


def _size(path: Path) -> int:
    return path.stat().st_size
