"""What a payload left on the cluster: found, fetched to this machine, or published there."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments import local_store
from dagster_slurm.errors import LocalStorageError, RemoteStorageError, TransferCorruptedError
from dagster_slurm.staging.local_digests import is_unchanged
from dagster_slurm.staging.patterns import kept_names, missing, output_not_found, select
from dagster_slurm.staging.plan import RemotePath, Staging
from dagster_slurm.text import counted
from dagster_slurm.transport import CompletedCommand, Transport, UploadProgress, storage_fault
from dagster_slurm.transport.base import DEFAULT_TIMEOUT_SECONDS, name_below, reading, whole_number
from dagster_slurm.transport.progress import ProgressReport
from dagster_slurm.transport.shell import verb
from dagster_slurm.transport.together import batches
from dagster_slurm.transport.upload import LARGEST_PIECE_ON_ONE_CHANNEL_BYTES, Pacer

_SMALL_BYTES = 1 << 20
_BATCH_BYTES = 8 << 20
_BATCH_FILES = 500
_BLOCK_BYTES = 1 << 20
_SLOWEST_BYTES_PER_SECOND = 20_000
_ABANDONED_SECONDS = 86400.0


@dataclass(frozen=True)
class RemoteFile:
    """A file below a directory of the cluster, and where it is to be here.

    Args:
        name: Relative to that directory.
        size_bytes: Its size.
        sha256: Its SHA-256, as the cluster has summed it.
        destination: Where on this machine.
    """

    name: str
    size_bytes: int
    sha256: str
    destination: Path

    @property
    def partial(self) -> Path:
        """What has arrived of it: the same for every process that fetches this content to this place."""
        place = hashlib.sha256(os.fsencode(self.destination.name)).hexdigest()[:16]
        return self.destination.with_name(f".dagster-slurm.{place}.{self.sha256[:32]}.part")


class Fetch:
    """Brings files from one directory of the cluster.

    Args:
        transport: The way there.
        root: The directory.
        tell: Gets how far it is, for the run's log.
    """

    def __init__(self, transport: Transport, root: str, tell: Callable[[str], None]) -> None:
        self._transport = transport
        self._root = root
        self._tell = tell

    def fetch(self, files: Sequence[RemoteFile]) -> int:
        """Fetch what is not here with the same content, and say how many files that were.

        Raises:
            TransferCorruptedError: What arrived is not what the cluster has summed.
            TransportError: The cluster cannot be reached, or cannot read them.
            LocalStorageError: They cannot be written here.
        """
        with _writing():
            wanted = [file for file in files if not is_unchanged(file.destination, file.size_bytes, file.sha256)]
            self._report = self._progress_of(wanted)
            self._done_bytes = 0
            small = [file for file in wanted if file.size_bytes <= _SMALL_BYTES]
            for batch in batches(small, lambda each: each.size_bytes, max_bytes=_BATCH_BYTES, max_count=_BATCH_FILES):
                self._fetch_small(batch)
            for file in wanted:
                if file.size_bytes > _SMALL_BYTES:
                    self._fetch_large(file)
            _remove_abandoned({file.destination.parent for file in wanted})
            return len(wanted)

    def _progress_of(self, wanted: Sequence[RemoteFile]) -> ProgressReport:
        def say(report: UploadProgress) -> None:
            self._tell(f"Outputs: {report}")

        total = sum(file.size_bytes for file in wanted)
        return ProgressReport(say, total_bytes=total, arrived_bytes=0, verb="fetched")

    def _fetch_small(self, batch: Sequence[RemoteFile]) -> None:
        size = sum(file.size_bytes for file in batch)
        answer = self._transport.run(
            verb("data_read", "dagster_slurm.cluster_scripts"),
            (self._root,),
            stdin=null_separated(file.name for file in batch),
            timeout_seconds=DEFAULT_TIMEOUT_SECONDS + size / _SLOWEST_BYTES_PER_SECOND,
        )
        if answer.returncode:
            raise RemoteStorageError(f"Cannot read outputs: {answer.reason}", host=self._transport.host)
        if len(answer.stdout) != size:
            raise self._corrupted(batch[0])
        at = 0
        for file in batch:
            data = answer.stdout[at : at + file.size_bytes]
            at += file.size_bytes
            if hashlib.sha256(data).hexdigest() != file.sha256:
                raise self._corrupted(file)
            file.destination.parent.mkdir(parents=True, exist_ok=True)
            # Its own: a call that was left behind may fetch the same.
            own = file.partial.with_suffix(f".{uuid4().hex[:8]}.part")
            with own.open("wb") as part:
                part.write(data)
                _to_disk(part)
            own.replace(file.destination)
            self._arrived(file.size_bytes)

    def _fetch_large(self, file: RemoteFile) -> None:
        file.destination.parent.mkdir(parents=True, exist_ok=True)
        busy = f"Another process fetches {file.destination}; waiting"
        with local_store.one_at_a_time(str(file.partial), lambda: self._tell(busy)):
            with file.partial.open("a+b") as part:
                digest = self._go_on(file, part)
                _to_disk(part)
            if digest != file.sha256:
                file.partial.unlink()
                raise self._corrupted(file)
            file.partial.replace(file.destination)

    def _go_on(self, file: RemoteFile, part: IO[bytes]) -> str:
        """Have a file arrive behind what has arrived of it; the SHA-256 of both."""
        digest, offset = hashlib.sha256(), 0
        part.seek(0)
        while block := part.read(_BLOCK_BYTES):
            digest.update(block)
            offset += len(block)
        self._arrived(min(offset, file.size_bytes))
        pacer = Pacer(LARGEST_PIECE_ON_ONE_CHANNEL_BYTES)
        while offset < file.size_bytes:
            size = min(pacer.piece_bytes, LARGEST_PIECE_ON_ONE_CHANNEL_BYTES, file.size_bytes - offset)
            began = time.monotonic()
            piece = self._transport.read_from(f"{self._root}/{file.name}", offset, size)
            if not piece:
                break
            pacer.sent(len(piece), time.monotonic() - began)
            digest.update(piece)
            part.write(piece)
            # What was read is there for the next process, should this one be killed.
            part.flush()
            offset += len(piece)
            self._arrived(len(piece))
        return digest.hexdigest()

    def _arrived(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        self._report.sent(self._done_bytes)

    def _corrupted(self, file: RemoteFile) -> TransferCorruptedError:
        return TransferCorruptedError(
            f"What arrived of {self._root}/{file.name} is not what is there", host=self._transport.host
        )


def null_separated(names: Iterator[str]) -> bytes:
    """Names as `xargs -0` reads them."""
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def _remove_abandoned(directories: Iterable[Path]) -> None:
    """Remove partial files of content that nobody has gone on with."""
    for directory in directories:
        for part in directory.glob(".dagster-slurm.*.part"):
            with suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                    part.unlink()


def _to_disk(file: IO[Any]) -> None:
    # The other copy is removed soon.
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalStorageError(
            f"Cannot write {error.filename or 'an output'} on this machine: {error.strerror or error}",
            hint="Make space, or choose another `outputs_dir`; then re-execute from failure.",
        ) from error


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
        answer = self._cluster.script("data_list", (self._work,), timeout_seconds=_LIST_SECONDS)
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
        files_wanted = counted(len(wanted), "file")
        self._tell(f"Outputs: {files_wanted}, {count} of them fetched, the others were here with the same content")
        return tuple(files)

    def _sum(self, files: Sequence[_Left]) -> None:
        total, done = sum(each.size_bytes for each in files), 0
        report = ProgressReport(
            lambda told: self._tell(f"Outputs: {told}"), total_bytes=total, arrived_bytes=0, verb="summed"
        )
        for batch in batches(files, lambda each: each.size_bytes, max_bytes=_SUMMED_BYTES, max_count=_SUMMED_FILES):
            size = sum(each.size_bytes for each in batch)
            answer = self._cluster.script(
                "data_sums",
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
            "data_keep", (self._work, result), stdin=os.fsencode(listed), timeout_seconds=_COPY_SECONDS
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
