"""What a payload left on the cluster: found, fetched to this machine, or published there."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import RemoteStorageError, TransferCorruptedError
from dagster_slurm.staging.fetching import Fetch, RemoteFile, null_separated
from dagster_slurm.staging.plan import Staging
from dagster_slurm.staging.remote_path import RemotePath
from dagster_slurm.staging.select import kept_names, missing, output_not_found, select
from dagster_slurm.transport import CompletedCommand, storage_fault
from dagster_slurm.transport.base import name_below, reading, whole_number
from dagster_slurm.transport.batches import batches
from dagster_slurm.transport.progress import ProgressReport

RESULTS = "results"
_SUM = re.compile(r"\\?([0-9a-f]{64}) ")

_LOOKS = 3
_PAUSE_SECONDS = 1.0
# So much is summed in one request: others wait for it on a connection that carries one at a time.
_SUMMED_BYTES = 1 << 28
_SUMMED_FILES = 5000
_SLOWEST_SUM_BYTES_PER_SECOND = 5_000_000
_LIST_SECONDS = 600.0
_COPY_SECONDS = 3600.0


@dataclass(frozen=True)
class Collected:
    """What was taken out.

    Args:
        outputs: Files on this machine.
        kept: What stays on the cluster, by its name in the working directory.
    """

    outputs: tuple[Path, ...] = ()
    kept: Mapping[str, RemotePath] = field(default_factory=dict)


@dataclass(frozen=True)
class _Left:
    """A file that lies in the working directory; the time tells one version of it from another."""

    name: str
    size_bytes: int
    changed_at: int


class Collector:
    """Collects the outputs of one job. What it does may be done again, by another process as well.

    Args:
        cluster: The cluster.
        staging: What was asked for.
        work: The payload's working directory.
        job_id: Slurm's id, for errors.
        tell: Gets what is done, and how far it is, for the run's log.
    """

    def __init__(
        self, cluster: SlurmCluster, staging: Staging, *, work: str, job_id: str, tell: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._staging = staging
        self._work = work
        self._job_id = job_id
        self._tell = tell
        self._sums: dict[_Left, str] = {}

    def collect(self, *, outputs_dir: Path, result: str) -> Collected:
        """Fetch, then publish.

        Args:
            outputs_dir: Where on this machine outputs without a directory of their own go.
            result: The directory, relative to that of all results, for what stays on the cluster.

        Raises:
            OutputNotFoundError: A glob finds nothing.
            TransportError: The cluster cannot be reached, or something arrived damaged.
            LocalStorageError: A file cannot be written on this machine.
        """
        outputs = self._staging.outputs
        if not outputs.patterns:
            return Collected()
        left, selected = self._look()
        fetched = self._fetch(
            {
                outputs.destination(pattern, name, outputs_dir): left[name]
                for pattern in outputs.fetched
                for name in selected[pattern]
            }
        )
        names = kept_names(selected, outputs.kept)
        return Collected(fetched, self._publish(names, f"{self._cluster.base()}/{RESULTS}/{result}") if names else {})

    def _look(self) -> tuple[Mapping[str, _Left], Mapping[str, Sequence[str]]]:
        patterns, put_there = self._staging.outputs.patterns, self._staging.put_there
        for look in range(_LOOKS):
            left = {each.name: each for each in self._list()}
            selected = select(patterns, left, put_there)
            absent = missing(selected)
            if not absent:
                return left, selected
            if look < _LOOKS - 1:
                # A file system with a cache may show later what another node has written.
                time.sleep(_PAUSE_SECONDS)
        raise output_not_found(
            absent, set(left) - put_there, kept_path=self._work, host=self._cluster.host, job_id=self._job_id
        )

    def _list(self) -> list[_Left]:
        answer = self._cluster.script("data_list.sh", (self._work,), timeout_seconds=_LIST_SECONDS)
        self._refuse_reading(answer)
        with reading(f"The list of files in {self._work}", host=self._cluster.host):
            rows = (os.fsdecode(row).split(" ", 2) for row in answer.stdout.split(b"\0") if row)
            return [
                _Left(name_below(name.removeprefix("./")), whole_number(size), int(changed))
                for size, changed, name in rows
            ]

    def _fetch(self, files: Mapping[Path, _Left]) -> tuple[Path, ...]:
        if not files:
            return ()
        self._sum([each for each in dict.fromkeys(files.values()) if each not in self._sums])
        wanted = [
            RemoteFile(left.name, left.size_bytes, self._sums[left], destination) for destination, left in files.items()
        ]
        try:
            count = Fetch(self._cluster.transport, self._work, self._tell).fetch(wanted)
        except TransferCorruptedError:
            # What was summed may be what is wrong.
            self._sums.clear()
            raise
        self._tell(f"Outputs: {len(wanted)} files, {count} of them fetched, the others were here with the same content")
        return tuple(files)

    def _sum(self, files: Sequence[_Left]) -> None:
        total, done = sum(each.size_bytes for each in files), 0
        report = ProgressReport(
            lambda told: self._tell(f"Outputs: {told}"), total_bytes=total, arrived_bytes=0, verb="summed"
        )
        for batch in batches(files, lambda each: each.size_bytes, max_bytes=_SUMMED_BYTES, max_count=_SUMMED_FILES):
            size = sum(each.size_bytes for each in batch)
            answer = self._cluster.script(
                "data_sums.sh",
                (self._work,),
                stdin=null_separated(each.name for each in batch),
                timeout_seconds=120.0 + size / _SLOWEST_SUM_BYTES_PER_SECOND,
            )
            self._refuse_reading(answer)
            done += size
            report.sent(done)
            with reading(f"The checksums of files in {self._work}", host=self._cluster.host):
                self._sums.update(zip(batch, map(_sum_in, answer.text.splitlines()), strict=True))

    def _publish(self, names: Sequence[str], result: str) -> Mapping[str, RemotePath]:
        kept = {name: RemotePath(f"{result}/{name}", self._cluster.host) for name in names}
        listed = "".join(f"{name}\n" for name in names)
        answer = self._cluster.script(
            "data_keep.sh", (self._work, result), stdin=os.fsencode(listed), timeout_seconds=_COPY_SECONDS
        )
        if answer.returncode:
            said, host = answer.reason, self._cluster.host
            fault = storage_fault(said, what=result, host=host)
            raise fault or RemoteStorageError(f"Cannot keep {', '.join(names)} in {result}: {said}", host=host)
        self._tell(f"Kept on {self._cluster.host} in {result}: {', '.join(names)}")
        return kept

    def _refuse_reading(self, answer: CompletedCommand) -> None:
        if answer.returncode:
            raise RemoteStorageError(
                f"Cannot read outputs in {self._work}: {answer.reason}",
                hint="Nothing was removed. See who may read them; then re-execute from failure.",
                host=self._cluster.host,
            )


def _sum_in(line: str) -> str:
    """The SHA-256 in a line of sha256sum(1), which begins with a backslash if the name in it holds something odd."""
    found = _SUM.match(line)
    if found is None:
        raise ValueError(f"{line!r} has no SHA-256")
    return found[1]
