"""What is sent: bytes in hand, a file of this machine read block by block, or a tree of both.

A tree is one tar stream with its checksums in front; large files are read while it is sent.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.transport.base import TreeEntry

BLOCK_BYTES = 1 << 16
CHECKSUMS_NAME = ".dagster-slurm.sha256"
# So much of small files is kept in memory from their checksums to their being sent.
_KEPT_BYTES = 64 << 20
_END = b"\0" * (2 * tarfile.BLOCKSIZE)
_FORBIDDEN = frozenset("\n\r\\\0")
_DIRECTORY_MODE = 0o700


def opened(source: bytes | Path) -> IO[bytes]:
    """The content as a file, at its beginning."""
    # It is read in blocks; a buffer would cost thousands of small files a third of their time.
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb", buffering=0)


def blocks(source: bytes | Path) -> Iterator[bytes]:
    """The content, block by block; an empty one gives nothing."""
    if isinstance(source, bytes):
        for begin in range(0, len(source), BLOCK_BYTES):
            yield source[begin : begin + BLOCK_BYTES]
        return
    with opened(source) as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def blocks_of_size(source: bytes | Path, size: int, *, what: str) -> Iterator[bytes]:
    """The content, block by block, never more than `size` bytes: the other end was told to expect so many.

    Raises:
        InvalidRequestError: It has another size by now; `what` names it.
    """
    sent = 0
    for block in blocks(source):
        sent += len(block)
        if sent > size:
            break
        yield block
    if sent != size:
        raise changed(what)


def changed(what: str) -> InvalidRequestError:
    """The error for a source that somebody writes to; `what` names it."""
    return InvalidRequestError(f"The file for {what} changed while it was sent")


def digest(source: bytes | Path) -> tuple[str, int, bytes | None]:
    """The SHA-256 of the content, in hexadecimal, its size in bytes, and the content itself if it is one block."""
    sha256, size, whole = hashlib.sha256(), 0, None
    for block in blocks(source):
        sha256.update(block)
        whole = block if size == 0 else None
        size += len(block)
    return sha256.hexdigest(), size, whole


@dataclass(frozen=True)
class Version:
    """By what a changed source is known again: its size, and when it was last written to."""

    size: int
    written_ns: int | None

    @staticmethod
    def of(file: IO[bytes]) -> Version:
        """The version of an open file; its position is kept."""
        position = file.tell()
        size = file.seek(0, os.SEEK_END)
        file.seek(position)
        try:
            return Version(size, os.fstat(file.fileno()).st_mtime_ns)
        except io.UnsupportedOperation:
            return Version(size, None)


def examine(source: bytes | Path, sha256: str = "") -> tuple[Version, str]:
    """The version of a source, and its SHA-256, for which it is read if that is not known."""
    with opened(source) as file:
        version, summed = Version.of(file), hashlib.sha256()
        while not sha256 and (block := file.read(BLOCK_BYTES)):
            summed.update(block)
    return version, sha256 or summed.hexdigest()


@dataclass(frozen=True)
class TreeArchive:
    """The stream of one tree, of known size."""

    members: tuple[tuple[bytes, TreeEntry, int], ...]
    checksums_name: str = CHECKSUMS_NAME

    @property
    def size_bytes(self) -> int:
        """How many bytes `blocks` gives."""
        return sum(len(head) + _padded(size) for head, _, size in self.members) + len(_END)

    @property
    def digest(self) -> str:
        """Trees with the same one have the same files, of the same modes."""
        _, checksums, _ = self.members[0]
        heads = b"".join(head for head, _, _ in self.members)
        return hashlib.sha256(heads + b"".join(blocks(checksums.source))).hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """The stream, in blocks of about one size: many small files are no reason for many small writes.

        Raises:
            InvalidRequestError: A file changed its size since the archive was made.
        """
        gathered = bytearray()
        for part in self._parts():
            gathered += part
            if len(gathered) >= BLOCK_BYTES:
                yield bytes(gathered)
                gathered.clear()
        yield bytes(gathered)

    def _parts(self) -> Iterator[bytes]:
        for head, entry, size in self.members:
            yield head
            yield from blocks_of_size(entry.source, size, what=repr(entry.name))
            yield b"\0" * (_padded(size) - size)
        yield _END


def archive_tree(entries: Iterable[TreeEntry]) -> TreeArchive:
    """Check the names, take the checksums, and lay out the stream.

    Raises:
        InvalidRequestError: A name is absolute, leaves the tree, stands twice, is also a directory, or holds
            what a checksum file cannot; or a directory or a symlink has content.
    """
    files = list(entries)
    _check(files)
    lines, members = [], []
    kept_bytes = 0
    for entry in files:
        if entry.is_directory:
            members.append(_member(TreeEntry(entry.name, mode=_DIRECTORY_MODE), 0))
            continue
        if entry.link:
            members.append(_member(entry, 0))
            continue
        sha256, size, whole = digest(entry.source)
        # `./`, or `sha256sum --check` would take `-` for its stdin and `*` for its mark of binary mode.
        lines.append(f"{sha256}  ./{entry.name}\n")
        source = entry.source
        if whole is not None and kept_bytes < _KEPT_BYTES:
            # To open a file again takes longer than to send it.
            source = whole
            kept_bytes += size
        members.append(_member(TreeEntry(entry.name, source, entry.mode), size))
    checksums = "".join(lines).encode()
    first = _member(TreeEntry(CHECKSUMS_NAME, checksums), len(checksums))
    return TreeArchive((first, *members))


def held(entries: Iterable[TreeEntry]) -> list[TreeEntry]:
    """The same, with the content of files in memory: a tree that goes with others' is not what they fail for.

    Raises:
        InvalidRequestError: As `archive_tree`.
    """
    files = list(entries)
    _check(files)
    return [replace(entry, source=b"".join(blocks(entry.source))) for entry in files]


def _check(files: Sequence[TreeEntry]) -> None:
    for entry in files:
        if (entry.is_directory or entry.link) and entry.source != b"":
            kind = "a symlink" if entry.link else "the name of a directory"
            raise InvalidRequestError(f"{entry.name!r} is {kind}, and has content")
    _check_names([entry.name for entry in files])


def _check_names(names: list[str]) -> None:
    for name in names:
        if not {"", ".", ".."}.isdisjoint(name.removesuffix("/").split("/")):
            raise InvalidRequestError(f"{name!r} is not a relative path inside the directory that is sent")
        if not _FORBIDDEN.isdisjoint(name):
            raise InvalidRequestError(f"The file name {name!r} holds a line break, a backslash or a NUL")
        if not _is_utf8(name):
            raise InvalidRequestError(f"The file name {name!r} is not UTF-8")
    files = [name for name in names if not name.endswith("/")]
    twice = sorted(name for name, count in Counter(files).items() if count > 1)
    if twice or CHECKSUMS_NAME in files:
        raise InvalidRequestError(f"More than one file would become {(twice or [CHECKSUMS_NAME])[0]!r}")
    both = sorted(_directories(names).intersection(files))
    if both:
        raise InvalidRequestError(f"{both[0]!r} would be a file and a directory")


def _directories(names: list[str]) -> set[str]:
    found: set[str] = set()
    for name in names:
        directory = name.rpartition("/")[0]
        while directory and directory not in found:
            found.add(directory)
            directory = directory.rpartition("/")[0]
    return found


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _member(entry: TreeEntry, size: int) -> tuple[bytes, TreeEntry, int]:
    name = entry.name.encode()
    if len(name) > tarfile.LENGTH_NAME or not name.isascii():
        return _head(entry.name, size, entry.mode, entry.link), entry, size
    # A head with another name: the last block begins with it, and has the sum of its bytes at 148 (pax, "ustar").
    head = _head("/" if entry.is_directory else "-", size, entry.mode, entry.link)
    begin = len(head) - tarfile.BLOCKSIZE
    checksum = int(head[begin + 148 : begin + 154], 8) - head[begin] + sum(name)
    behind = head[begin + tarfile.LENGTH_NAME : begin + 148], b"%06o" % checksum, head[begin + 154 :]
    return b"".join((head[:begin], name.ljust(tarfile.LENGTH_NAME, b"\0"), *behind)), entry, size


# The files of a hundred steps, and of a thousand tasks, are of few sizes: to make a head takes 30 to 50 us.
@lru_cache(maxsize=2048)
def _head(name: str, size: int, mode: int, link: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, mode
    if name.endswith("/"):
        info.type = tarfile.DIRTYPE
    elif link:
        info.type, info.linkname = tarfile.SYMTYPE, link
    return info.tobuf(tarfile.PAX_FORMAT)


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
