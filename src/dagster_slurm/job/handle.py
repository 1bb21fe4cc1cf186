"""What names a piece of work, and the job that does it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.job_id import JobId

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_MAX_READABLE_CHARACTERS = 48
ONE = ""
"""The only unit of a piece of work that has no elements."""


@dataclass(frozen=True)
class LaunchKey:
    """One piece of work: it has exactly one job that runs its payload.

    Not part of it are the run's id, the retry's number, and the content of payload, environment or options: a
    deploy changes those, and deploys are what restarts.

    Args:
        origin_run_id: The run in which this piece of work was first asked for.
        step_key: Dagster's step key, with the mapping key if there is one.
        partition_keys: The partition keys, in order; empty for an unpartitioned asset.
        call: Name, or ordinal, of the `compute.run` call within the step.
    """

    origin_run_id: str
    step_key: str
    partition_keys: tuple[str, ...] = ()
    call: str = "0"

    @property
    def digest(self) -> str:
        """A short name of the key, the same on every machine."""
        return short_digest(self.origin_run_id, self.step_key, list(self.partition_keys), self.call)

    @property
    def directory_name(self) -> str:
        """A file name, readable and unique within the run; Slurm's jobs are named after it."""
        return f"{_readable(self.step_key)}-{self.digest}"

    def first_attempt(self, base: str) -> RunDirectory:
        """Where the first attempt at this piece of work lies on a cluster."""
        return RunDirectory(base, _readable(self.origin_run_id), self.directory_name)


@dataclass(frozen=True)
class JobHandle:
    """A submitted job: enough to find it again from another process.

    Args:
        directory: Where it lies.
        job_id: Slurm's id.
        generation: Which try to submit brought it.
    """

    directory: RunDirectory
    job_id: str
    generation: int = 0

    def of(self, element: int) -> JobHandle:
        """One task of a job array."""
        task_id = str(JobId.parse(self.job_id).of_task(element))
        return JobHandle(self.directory.of_element(element), task_id, self.generation)


def short_digest(*parts: object) -> str:
    """Twelve hexadecimal digits that stand for values which JSON can write, the same on every machine."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _readable(text: str) -> str:
    return _UNSAFE.sub("_", text).strip(".-")[:_MAX_READABLE_CHARACTERS] or "_"
