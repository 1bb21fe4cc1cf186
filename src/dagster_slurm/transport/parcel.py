"""What is uploaded in pieces: a large file, or the stream of a tree, read forward."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.transport import content
from dagster_slurm.transport.archive import TreeArchive
from dagster_slurm.transport.content import BLOCK_BYTES, Version


class Stream(Protocol):
    """Content that is read forward, once."""

    def skip(self, size: int) -> None:
        """Pass over the first bytes."""

    def read(self, size: int) -> bytes:
        """Up to so many bytes; empty at the end."""

    def range(self, size: int) -> FileRange | None:
        """The next bytes, unread; None if they have to be read."""

    def finish(self) -> None:
        """All was read.

        Raises:
            InvalidRequestError: The content is no longer what it was.
        """


@dataclass(frozen=True)
class Parcel:
    """What is uploaded in pieces.

    Args:
        size: In bytes.
        digest: Of its content, which is the same where it is.
        open: Opens the content.
    """

    size: int
    digest: str
    open: Callable[[], AbstractContextManager[Stream]]


def file_parcel(source: bytes | Path, version: Version, sha256: str, *, what: str) -> Parcel:
    """A file, or bytes in hand, of a version that was summed; `what` names it in errors."""

    @contextmanager
    def opened() -> Iterator[Stream]:
        with content.opened(source) as file:
            if Version.of(file) != version:
                raise content.changed(what)
            yield _FileStream(file, version, what, is_on_disk=isinstance(source, Path))

    return Parcel(version.size, sha256, opened)


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
    def __init__(self, file: IO[bytes], version: Version, what: str, *, is_on_disk: bool) -> None:
        self._file = file
        self._version = version
        self._what = what
        self._is_on_disk = is_on_disk

    def skip(self, size: int) -> None:
        self._file.seek(size)

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def range(self, size: int) -> FileRange | None:
        return FileRange(self._file, size) if self._is_on_disk else None

    def finish(self) -> None:
        if Version.of(self._file) != self._version:
            raise content.changed(self._what)


class _TreeStream:
    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def skip(self, size: int) -> None:
        while size and (block := self.read(min(size, BLOCK_BYTES))):
            size -= len(block)

    def read(self, size: int) -> bytes:
        block = self._rest or next(self._blocks, b"")
        self._rest = block[size:]
        return block[:size]

    def range(self, size: int) -> None:
        """It is made while it is read."""

    def finish(self) -> None:
        """Its checksums travel with it."""


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
        block = os.pread(self._descriptor, min(self._left, BLOCK_BYTES), self._offset)
        if not block:
            return 0
        written = sink.write(block)
        if written is None:
            raise BlockingIOError
        return written
