"""What is sent: bytes in hand, or a file of this machine read block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from dagster_slurm.errors import InvalidRequestError

_BLOCK_BYTES = 1 << 18


def blocks(source: bytes | Path) -> Iterator[bytes]:
    """The content, block by block; an empty one gives nothing."""
    if isinstance(source, bytes):
        if source:
            yield source
        return
    with source.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
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
        raise InvalidRequestError(f"The file for {what} changed while it was sent")


def digest(source: bytes | Path) -> tuple[str, int]:
    """The SHA-256 of the content, in hexadecimal, and its size in bytes."""
    sha256, size = hashlib.sha256(), 0
    for block in blocks(source):
        sha256.update(block)
        size += len(block)
    return sha256.hexdigest(), size
