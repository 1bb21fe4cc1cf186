"""Content on the cluster, in files that are named by their SHA-256: sent once, and checked before it gets its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dagster_slurm.cluster.slurm_cluster import SlurmCluster
from dagster_slurm.errors import InvalidRequestError, RemoteStorageError, TransferCorruptedError
from dagster_slurm.transport import CompletedCommand, TreeEntry, UploadProgress, content, storage_fault
from dagster_slurm.transport.base import reading
from dagster_slurm.transport.together import batches

_LARGE_BYTES = 4 << 20
# So much is sent at once: what has arrived when a process dies is not sent again.
_BATCH_BYTES = 64 << 20
_BATCH_FILES = 2000
_TRIES = 3
_SLOWEST_SUM_BYTES_PER_SECOND = 20_000_000
SECONDS_FOR_A_NAME = 0.02


@dataclass(frozen=True)
class Part:
    """Something that is sent, known by its content.

    Args:
        name: How errors name it. Of an environment: how the installing script finds it, within its `parts` directory;
            `/` for directories in that.
        sha256: Of its content, in hexadecimal.
        size_bytes: Of its content; of an environment's for the log, and 0 if that is not known before.
        fetch: Gets the content: a file of this machine. Called only if the cluster lacks it.
    """

    name: str
    sha256: str
    size_bytes: int
    fetch: Callable[[], Path | bytes]

    @classmethod
    def of(cls, name: str, content: bytes) -> Part:
        """Content that is at hand."""
        return cls(name, hashlib.sha256(content).hexdigest(), len(content), lambda: content)


class ChangedError(InvalidRequestError):
    """A file of this machine is not what it was when it was summed."""


class ContentStore:
    """A directory of such files. They are read-only, and several processes may store the same at the same moment.

    Args:
        cluster: The cluster.
        directory: Where they lie.
        tell: Gets how far an upload is.
        sizes_are_known: Whether what is there has to be of the size of the part.
    """

    def __init__(
        self, cluster: SlurmCluster, directory: str, tell: Callable[[str], None], *, sizes_are_known: bool = True
    ) -> None:
        self._cluster = cluster
        self._directory = directory
        self._tell = tell
        self._sizes_are_known = sizes_are_known

    def provide(self, parts: Iterable[Part], paths: Iterable[str] = ()) -> Sequence[Part]:
        """Send what is not there, and say what that was.

        Args:
            parts: What has to be there.
            paths: Files and directories of the cluster that have to be there as well.

        Raises:
            InvalidRequestError: One of `paths` is not there, or a file of this machine is written to meanwhile.
            TransportError: The cluster cannot be reached, or has no space.
        """
        by_digest = {part.sha256: part for part in parts}
        sent: dict[str, Part] = {}
        for _ in range(_TRIES):
            missing = self._missing(by_digest, paths)
            if not missing:
                return list(sent.values())
            sent.update({part.sha256: part for part in missing})
            self._send(missing)
        raise RemoteStorageError(f"Files disappear from {self._directory} as they arrive", host=self._cluster.host)

    def store(self, name: str, parts: Sequence[Part]) -> None:
        """Have parts that have arrived in the directory NAME get their names.

        Raises:
            ChangedError: A file of this machine was written to meanwhile.
            TransferCorruptedError: One is something else.
        """
        timeout_seconds = 120.0 + sum(part.size_bytes for part in parts) / _SLOWEST_SUM_BYTES_PER_SECOND
        answer = self._cluster.script("content_store", (self._directory, name), timeout_seconds=timeout_seconds)
        self.refuse(answer)
        odd = answer.text.split()
        if not odd:
            return
        with reading(f"What has arrived in {self._directory}", host=self._cluster.host):
            part = {part.sha256: part for part in parts}[odd[0]]
        _refuse_changed(part)
        raise TransferCorruptedError(f"What arrived for {part.name} is not what was sent", host=self._cluster.host)

    def refuse(self, answer: CompletedCommand) -> None:
        """Raise the error for a script that could not use the directory."""
        if answer.returncode:
            said, host = answer.reason, self._cluster.host
            fault = storage_fault(said, what=self._directory, host=host)
            raise fault or RemoteStorageError(f"Cannot use {self._directory}: {said}", host=host)

    def refuse_missing(self, paths: Sequence[str]) -> None:
        """Raise the error for paths that are not there."""
        if paths:
            raise InvalidRequestError(
                f"There is no {paths[0]} on the cluster",
                hint="A RemotePath names a file or directory that exists; materialise the asset that makes it anew.",
                host=self._cluster.host,
            )

    def _missing(self, by_digest: dict[str, Part], paths: Iterable[str]) -> list[Part]:
        listed = [
            f"content {part.sha256} {part.size_bytes if self._sizes_are_known else '-'}" for part in by_digest.values()
        ]
        listed += [f"path {path}" for path in dict.fromkeys(paths)]
        answer = self._cluster.script(
            "content_missing",
            (self._directory,),
            stdin="".join(f"{line}\n" for line in listed).encode("utf-8", "surrogateescape"),
            timeout_seconds=120.0 + len(listed) * SECONDS_FOR_A_NAME,
        )
        self.refuse(answer)
        lines = answer.text.splitlines()
        self.refuse_missing([line.removeprefix("path ") for line in lines if line.startswith("path ")])
        with reading(f"What is missing in {self._directory}", host=self._cluster.host):
            return [by_digest[line.split()[1]] for line in lines]

    def _send(self, missing: Sequence[Part]) -> None:
        small = [part for part in missing if part.size_bytes <= _LARGE_BYTES]
        for batch in batches(small, lambda each: each.size_bytes, max_bytes=_BATCH_BYTES, max_count=_BATCH_FILES):
            # The same batch of the next process goes on from what has arrived.
            name = hashlib.sha256("".join(each.sha256 for each in batch).encode()).hexdigest()[:16]
            entries = [TreeEntry(each.sha256, each.fetch()) for each in batch]
            self._cluster.transport.put_tree(entries, f"{self._directory}/.incoming/{name}", progress=self._progress)
            self.store(name, batch)
        for part in missing:
            if part.size_bytes > _LARGE_BYTES:
                self._put(part)

    def _put(self, part: Part) -> None:
        """A large file, straight to the place that its digest names."""
        destination = f"{self._directory}/{part.sha256}"
        try:
            self._cluster.transport.put(
                part.fetch(), destination, mode=0o400, sha256=part.sha256, progress=self._progress
            )
        except TransferCorruptedError:
            _refuse_changed(part)
            raise

    def _progress(self, report: UploadProgress) -> None:
        self._tell(str(report))


def _refuse_changed(part: Part) -> None:
    if content.digest(part.fetch())[0] != part.sha256:
        raise ChangedError(f"{part.name} changed while it was sent", hint="Run when it is finished.")
