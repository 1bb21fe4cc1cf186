"""What is uploaded in pieces: a large file, or the stream of a tree, read forward and summed on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.transport import content
from dagster_slurm.transport.archive import TreeArchive
from dagster_slurm.transport.content import BLOCK_BYTES, Examined, Remainder, Version


class Stream(Protocol):
    """Content that is read forward, once."""

    def read(self, size: int) -> bytes:
        """Up to so many bytes; empty at the end."""

    def range(self, size: int) -> FileRange | None:
        """The next bytes, unread; None if they have to be read."""

    def finish(self) -> Remainder | None:
        """The remainder of all that was read; None if the content is checked otherwise.

        Raises:
            InvalidRequestError: The content is no longer what it was.
        """


@dataclass(frozen=True)
class Parcel:
    """What is uploaded in pieces.

    Args:
        size: In bytes.
        digest: Parcels with the same one have the same content.
        open: Opens the content.
    """

    size: int
    digest: str
    open: Callable[[], AbstractContextManager[Stream]]


def file_parcel(source: bytes | Path, examined: Examined, *, what: str) -> Parcel:
    """A file, or bytes in hand; `what` names it in errors."""

    @contextmanager
    def opened() -> Iterator[Stream]:
        with content.opened(source) as file:
            if Version.of(file) != examined.version:
                raise content.changed(what)
            with _summing(source) as aside:
                yield _FileStream(file, examined.version, what, aside)

    return Parcel(examined.version.size, examined.sha256, opened)


def tree_parcel(archive: TreeArchive) -> Parcel:
    """A tree; its files are checked one by one when it is unpacked."""

    @contextmanager
    def opened() -> Iterator[Stream]:
        yield _TreeStream(archive.blocks())

    return Parcel(archive.size_bytes, archive.digest, opened)


class Piece:
    """The next bytes of a stream.

    So many are sent as were announced, also when the source has become shorter: what would be missing, the far end
    would take from the next request.
    """

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self._size = size
        self.fault: InvalidRequestError | None = None

    def blocks(self) -> Iterator[bytes | FileRange]:
        """The bytes; see `fault` afterwards."""
        left = self._size
        if (unread := self._stream.range(left)) is not None:
            yield unread
            left = len(unread)
        while left and (block := self._read(min(left, BLOCK_BYTES))):
            yield block
            left -= len(block)
        while left:
            filler = bytes(min(left, BLOCK_BYTES))
            yield filler
            left -= len(filler)

    def _read(self, size: int) -> bytes:
        try:
            block = self._stream.read(size)
        except InvalidRequestError as error:
            self.fault = error
            return b""
        if not block:
            self.fault = content.changed("the upload")
        return block


class _FileStream:
    def __init__(self, file: IO[bytes], version: Version, what: str, aside: subprocess.Popen[str] | None) -> None:
        self._file = file
        self._version = version
        self._what = what
        self._aside = aside
        self._sum = Remainder()

    def read(self, size: int) -> bytes:
        block = self._file.read(size)
        if self._aside is None:
            self._sum = self._sum.followed_by(block)
        return block

    def range(self, size: int) -> FileRange | None:
        # What Python sums, it reads.
        return None if self._aside is None else FileRange(self._file, size)

    def finish(self) -> Remainder:
        if Version.of(self._file) != self._version:
            raise content.changed(self._what)
        if self._aside is None:
            return self._sum
        printed, _ = self._aside.communicate()
        whole = Remainder.from_cksum(printed)
        if whole.size_bytes != self._version.size:
            raise content.changed(self._what)
        return whole


class _TreeStream:
    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def read(self, size: int) -> bytes:
        block = self._rest or next(self._blocks, b"")
        self._rest = block[size:]
        return block[:size]

    def range(self, size: int) -> None:
        """It is made while it is read."""

    def finish(self) -> None:
        """Its checksums travel with it."""


@contextmanager
def _summing(source: bytes | Path) -> Iterator[subprocess.Popen[str] | None]:
    """`cksum` over a file while it is sent; None where that is not to be had.

    Python takes 0.26 s to sum 200 MB, coreutils 9 takes 0.04 s; and 200 MB are sent in 0.4 s.
    """
    if not isinstance(source, Path):
        yield None
        return
    with source.open("rb") as file:
        try:
            process = subprocess.Popen(["cksum"], stdin=file, stdout=subprocess.PIPE, text=True)
        except FileNotFoundError:
            yield None
            return
    with process:
        try:
            yield process
        finally:
            process.kill()


def remainder_of_next(stream: Stream, size: int) -> Remainder:
    """Read so many bytes of a stream, less at its end, and sum them."""
    remainder = Remainder()
    while remainder.size_bytes < size and (block := stream.read(min(BLOCK_BYTES, size - remainder.size_bytes))):
        remainder = remainder.followed_by(block)
    return remainder


def name_of(destination: str) -> str:
    """How the partial files of uploads to a destination are called; short, however long the destination's name is."""
    return f".dagster-slurm.{hashlib.sha256(destination.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


_BLOCK_BYTES = 1 << 16
# Some file systems and some kinds of socket do not do it (sendfile(2), EINVAL and ENOSYS; elsewhere ENOTSUP, ENOTSOCK).
_NOT_DONE_HERE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOTSOCK)


class FileRange:
    """The next bytes of an open file, which is then behind them.

    Args:
        file: A file of this machine's file system.
        size: How many bytes; there may be fewer.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._descriptor = file.fileno()
        self._offset = file.tell()
        self._left = size
        self._copied = False
        file.seek(self._offset + size)

    def __len__(self) -> int:
        return self._left

    def move_to(self, sink: IO[bytes]) -> bool:
        """Move what the sink takes. False when there is nothing left, or the file is at its end."""
        try:
            moved = self._copy(sink) if self._copied else self._send(sink)
        except BlockingIOError:
            return True
        except OSError as error:
            if self._copied or error.errno not in _NOT_DONE_HERE:
                raise
            self._copied = True
            return True
        if not moved:
            return False
        self._offset += moved
        self._left -= moved
        return self._left > 0

    def _send(self, sink: IO[bytes]) -> int:
        return os.sendfile(sink.fileno(), self._descriptor, self._offset, self._left)

    def _copy(self, sink: IO[bytes]) -> int:
        block = os.pread(self._descriptor, min(self._left, _BLOCK_BYTES), self._offset)
        if not block:
            return 0
        written = sink.write(block)
        if written is None:
            raise BlockingIOError
        return written
