"""What is sent: bytes in hand, or a file of this machine read block by block."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dagster_slurm.errors import InvalidRequestError

BLOCK_BYTES = 1 << 16


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
