"""Inputs on the cluster: content by its SHA-256, sent once, and linked into working directories."""

from __future__ import annotations

import hashlib
import io
import posixpath
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import (
    InvalidRequestError,
    RemoteStorageError,
    TransferCorruptedError,
)
from dagster_slurm.staging.local_digests import sha256_of
from dagster_slurm.staging.plan import Inputs
from dagster_slurm.transport import CompletedCommand, TreeEntry, UploadProgress, storage_fault
from dagster_slurm.transport.base import reading
from dagster_slurm.transport.progress import ProgressReport
from dagster_slurm.transport.together import batches

DIRECTORY = "data"
_LARGE_BYTES = 4 << 20
_BATCH_BYTES = 64 << 20
_BATCH_FILES = 2000
_TRIES = 3
_SLOWEST_SUM_BYTES_PER_SECOND = 20_000_000
_SECONDS_FOR_A_NAME = 0.02
_CHANGED_STATUS = 65

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Content:
    """A file of this machine, by its content."""

    path: Path
    size_bytes: int
    sha256: str


class InputStore:
    """The inputs of one call, below `remote_base` of one cluster.

    Args:
        cluster: The cluster.
        inputs: What the payload reads.
        tell: Gets what is done, and how far it is, for the run's log.
    """

    def __init__(self, cluster: SlurmCluster, inputs: Inputs, tell: Tell) -> None:
        self._cluster = cluster
        self._inputs = inputs
        self._tell = tell

    @property
    def directory(self) -> str:
        """Where the content lies."""
        return f"{self._cluster.base()}/{DIRECTORY}"

    @cached_property
    def _paths(self) -> Mapping[str, str]:
        host = self._cluster.host
        return {
            name: self._cluster.absolute(path.on(host), f"RemotePath of {name!r}")
            for name, path in self._inputs.remote.items()
        }

    @cached_property
    def _contents(self) -> Mapping[str, Content]:
        total, done = sum(path.stat().st_size for path in self._inputs.files.values()), 0
        report = ProgressReport(self._progress, total_bytes=total, arrived_bytes=0, verb="summed")
        contents = {}
        for name, path in self._inputs.files.items():
            contents[name] = _content(path)
            done += contents[name].size_bytes
            report.sent(done)
        return contents

    def upload(self) -> None:
        """Send what is not there.

        Raises:
            InvalidRequestError: A `RemotePath` is not there, or a file of this machine is written to meanwhile.
            TransportError: The cluster cannot be reached, or has no space.
        """
        if not self._inputs.names:
            return
        sent: dict[str, Content] = {}
        for _ in range(_TRIES):
            missing = self._missing()
            if not missing:
                self._say_what_was_done(sent)
                return
            sent.update({content.sha256: content for content in missing})
            self._send(missing)
        raise RemoteStorageError(f"Files disappear from {self.directory} as they arrive", host=self._cluster.host)

    def there(self) -> frozenset[str]:
        """The names of the files that the cluster has already; nothing is changed there. Reads those of this machine.

        Raises:
            InvalidRequestError: A `RemotePath` is not there, or a file of this machine is written to meanwhile.
        """
        digests = {content.sha256 for content in self._contents.values()}
        found = self._cluster.present(self.directory, digests, self._paths.values())
        self._refuse_missing(found.missing)
        return frozenset(
            name
            for name, content in self._contents.items()
            if found.sizes_bytes.get(content.sha256) == content.size_bytes
        )

    def place(self, work: str) -> None:
        """Have the inputs appear in a working directory; it may be done again.

        Raises:
            TransferCorruptedError: Something is not there any more.
        """
        if not self._inputs.names:
            return
        if self._place_at_once(work):
            return
        listed = [line for name, content in self._contents.items() for line in ("content", content.sha256, name)]
        listed += [line for name, path in self._paths.items() for line in ("path", path, name)]
        answer = self._asked("data_place.sh", (work, self.directory), listed)
        if answer.returncode == _CHANGED_STATUS:
            self.upload()
            raise TransferCorruptedError(f"A file in {self.directory} was removed meanwhile", host=self._cluster.host)
        self._refuse(answer)

    def _place_at_once(self, work: str) -> bool:
        """Whether the inputs could be linked as one stream; otherwise it has to be done, and told, one by one."""
        names = {name: f"{posixpath.relpath(work, self._cluster.base())}/{name}" for name in self._inputs.names}
        links = {names[name]: f"{DIRECTORY}/{content.sha256}" for name, content in self._contents.items()}
        symbolic = {names[name]: path for name, path in self._paths.items()}
        stream = link_stream(links, symbolic)
        timeout_seconds = 120.0 + len(names) * _SECONDS_FOR_A_NAME
        answer = self._cluster.script(
            "data_links.sh", (self._cluster.base(),), stdin=stream, timeout_seconds=timeout_seconds
        )
        return answer.returncode == 0

    def _missing(self) -> list[Content]:
        by_digest = {content.sha256: content for content in self._contents.values()}
        listed = [f"content {content.sha256} {content.size_bytes}" for content in by_digest.values()]
        listed += [f"path {path}" for path in dict.fromkeys(self._paths.values())]
        answer = self._asked("data_missing.sh", (self.directory,), listed)
        self._refuse(answer)
        lines = answer.text.splitlines()
        self._refuse_missing([line.removeprefix("path ") for line in lines if line.startswith("path ")])
        with reading(f"What is missing in {self.directory}", host=self._cluster.host):
            return [by_digest[line.split()[1]] for line in lines]

    def _refuse_missing(self, paths: Sequence[str]) -> None:
        if paths:
            raise InvalidRequestError(
                f"There is no {paths[0]} on the cluster",
                hint="A RemotePath names a file or directory that is there; materialise what makes it anew.",
                host=self._cluster.host,
            )

    def _asked(self, name: str, args: Sequence[str], lines: Sequence[str]) -> CompletedCommand:
        timeout_seconds = 120.0 + len(lines) * _SECONDS_FOR_A_NAME
        return self._cluster.script(name, args, stdin=_lines(lines), timeout_seconds=timeout_seconds)

    def _send(self, missing: Sequence[Content]) -> None:
        small = [content for content in missing if content.size_bytes <= _LARGE_BYTES]
        for batch in batches(small, lambda each: each.size_bytes, max_bytes=_BATCH_BYTES, max_count=_BATCH_FILES):
            # The same batch of the next process goes on from what has arrived.
            name = hashlib.sha256("".join(each.sha256 for each in batch).encode()).hexdigest()[:16]
            entries = [TreeEntry(each.sha256, each.path) for each in batch]
            self._cluster.transport.put_tree(entries, f"{self.directory}/.incoming/{name}", progress=self._progress)
            self._store(name, batch)
        for each in missing:
            if each.size_bytes > _LARGE_BYTES:
                self._put(each)

    def _put(self, content: Content) -> None:
        """A large file, straight to the place that its digest names."""
        destination = f"{self.directory}/{content.sha256}"
        try:
            self._cluster.transport.put(
                content.path, destination, mode=0o400, sha256=content.sha256, progress=self._progress
            )
        except TransferCorruptedError:
            self._refuse_changed(content)
            raise

    def _store(self, name: str, contents: Sequence[Content]) -> None:
        size = sum(content.size_bytes for content in contents)
        timeout_seconds = 120.0 + size / _SLOWEST_SUM_BYTES_PER_SECOND
        answer = self._cluster.script("data_store.sh", (self.directory, name), timeout_seconds=timeout_seconds)
        self._refuse(answer)
        odd = answer.text.split()
        if not odd:
            return
        with reading(f"What has arrived in {self.directory}", host=self._cluster.host):
            content = {content.sha256: content for content in contents}[odd[0]]
        self._refuse_changed(content)
        raise TransferCorruptedError(f"What arrived for {content.path} is not what was sent", host=self._cluster.host)

    def _refuse_changed(self, content: Content) -> None:
        if _content(content.path).sha256 != content.sha256:
            raise InvalidRequestError(
                f"The input {content.path} changed while it was sent", hint="Run when it is finished."
            )

    def _say_what_was_done(self, sent: Mapping[str, Content]) -> None:
        count, size = len(self._inputs.files), sum(content.size_bytes for content in sent.values())
        if count:
            self._tell(f"Inputs: {count} files, {len(sent)} of them uploaded ({size} bytes), the others were there")

    def _progress(self, report: UploadProgress) -> None:
        self._tell(f"Inputs: {report}")

    def _refuse(self, answer: CompletedCommand) -> None:
        if answer.returncode:
            said, host = answer.reason, self._cluster.host
            fault = storage_fault(said, what=self.directory, host=host)
            raise fault or RemoteStorageError(f"Cannot use {self.directory}: {said}", host=host)


def link_stream(links: Mapping[str, str], symbolic: Mapping[str, str]) -> bytes:
    """A tar stream of hard and symbolic links, by their names; hard links name their target from the same directory."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for kind, targets in ((tarfile.LNKTYPE, links), (tarfile.SYMTYPE, symbolic)):
            for name, target in targets.items():
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, target
                archive.addfile(member)
    return stream.getvalue()


def _content(path: Path) -> Content:
    return Content(path, path.stat().st_size, sha256_of(path))


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
