"""Inputs on the cluster: content by its SHA-256, sent once, and linked into working directories."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.content_store import SECONDS_FOR_A_NAME, ContentStore, Part
from dagster_slurm.errors import TransferCorruptedError
from dagster_slurm.staging.local_digests import sha256_of
from dagster_slurm.staging.plan import Inputs
from dagster_slurm.text import counted
from dagster_slurm.transport.progress import ProgressReport

DIRECTORY = "data"
_CHANGED_STATUS = 65

Tell = Callable[[str], None]


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
    def _store(self) -> ContentStore:
        return ContentStore(self._cluster, self.directory, self._progress)

    @cached_property
    def _paths(self) -> Mapping[str, str]:
        host = self._cluster.host
        return {
            name: self._cluster.absolute(path.on(host), f"RemotePath of {name!r}")
            for name, path in self._inputs.remote.items()
        }

    @cached_property
    def _contents(self) -> Mapping[str, Part]:
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
        sent = self._store.provide(self._contents.values(), self._paths.values())
        if count := len(self._inputs.files):
            size = sum(part.size_bytes for part in sent)
            news = f"{len(sent)} of them uploaded ({counted(size, 'byte')})"
            self._tell(f"Inputs: {counted(count, 'file')}, {news}, the others were on the cluster")

    def there(self) -> frozenset[str]:
        """The names of the files that the cluster has already; nothing is changed there. Reads those of this machine.

        Raises:
            InvalidRequestError: A `RemotePath` is not there, or a file of this machine is written to meanwhile.
        """
        digests = {content.sha256 for content in self._contents.values()}
        found = self._cluster.present(self.directory, digests, self._paths.values())
        self._store.refuse_missing(found.missing)
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
        answer = self._cluster.script(
            "data_place",
            (work, self.directory),
            stdin="".join(f"{line}\n" for line in listed).encode("utf-8", "surrogateescape"),
            timeout_seconds=120.0 + len(listed) * SECONDS_FOR_A_NAME,
        )
        if answer.returncode == _CHANGED_STATUS:
            self.upload()
            raise TransferCorruptedError(f"A file in {self.directory} was removed meanwhile", host=self._cluster.host)
        self._store.refuse(answer)

    def _place_at_once(self, work: str) -> bool:
        """Whether the inputs could be linked as one stream; otherwise it has to be done, and told, one by one."""
        names = {name: f"{posixpath.relpath(work, self._cluster.base())}/{name}" for name in self._inputs.names}
        links = {names[name]: f"{DIRECTORY}/{content.sha256}" for name, content in self._contents.items()}
        symbolic = {names[name]: path for name, path in self._paths.items()}
        stream = link_stream(links, symbolic)
        timeout_seconds = 120.0 + len(names) * SECONDS_FOR_A_NAME
        answer = self._cluster.script(
            "data_links", (self._cluster.base(),), stdin=stream, timeout_seconds=timeout_seconds
        )
        return answer.returncode == 0

    def _progress(self, said: object) -> None:
        self._tell(f"Inputs: {said}")


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


def _content(path: Path) -> Part:
    return Part(f"The input {path}", sha256_of(path), path.stat().st_size, lambda: path)
