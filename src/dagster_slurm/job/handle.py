"""What names a piece of work, and the job that does it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from dagster_slurm.run_directory import PROTOCOL_VERSION, RunDirectory

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_MAX_READABLE_CHARACTERS = 48


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
        parts = [self.origin_run_id, self.step_key, list(self.partition_keys), self.call]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    @property
    def directory_name(self) -> str:
        """A file name, readable and unique within the run."""
        return f"{_readable(self.step_key)}-{self.digest}"

    @property
    def job_name(self) -> str:
        """Slurm's name of the job, the same for every try of this piece of work."""
        return f"{_readable(self.step_key)}-{self.digest}"

    def run_directory(self, base: str) -> RunDirectory:
        """Where this piece of work lies on a cluster."""
        return RunDirectory(base, _readable(self.origin_run_id), self.directory_name)


@dataclass(frozen=True)
class JobHandle:
    """A submitted job: enough to find it again from another process, or with a newer release."""

    key: LaunchKey
    directory: RunDirectory
    job_id: str
    generation: int = 0
    protocol: int = PROTOCOL_VERSION

    def to_json(self) -> str:
        """The handle as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> JobHandle:
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is not a handle.
        """
        fields: Mapping[str, dict[str, str]] = json.loads(text)
        try:
            key = dict(fields["key"])
            partition_keys = tuple(key.pop("partition_keys"))
            return cls(
                **{
                    **fields,
                    "key": LaunchKey(**key, partition_keys=partition_keys),
                    "directory": RunDirectory(**fields["directory"]),
                }  # type: ignore[arg-type]
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"Not a job handle: {text!r}") from error


def _readable(text: str) -> str:
    return _UNSAFE.sub("_", text).strip(".-")[:_MAX_READABLE_CHARACTERS] or "_"
