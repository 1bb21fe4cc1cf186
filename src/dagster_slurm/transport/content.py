"""What is sent: bytes in hand, or a file of this machine read block by block."""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dagster_slurm.errors import InvalidRequestError

BLOCK_BYTES = 1 << 16
_SAMPLE_BYTES = 1 << 20


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


@dataclass(frozen=True)
class Examined:
    """What is known of a source before it is sent.

    Args:
        version: Its size, and when it was written.
        sha256: Of the whole content if it was read whole, and else of its version, its first MiB and its last.
    """

    version: Version
    sha256: str


def examine(source: bytes | Path, *, whole_up_to: int) -> Examined:
    """Read a source once if it has no more than `whole_up_to` bytes, and look into it if it has more."""
    with opened(source) as file:
        version = Version.of(file)
        sha256 = hashlib.sha256()
        if isinstance(source, bytes) or version.size <= whole_up_to:
            while block := file.read(BLOCK_BYTES):
                sha256.update(block)
        else:
            sha256.update(repr(version).encode() + file.read(_SAMPLE_BYTES))
            file.seek(max(0, version.size - _SAMPLE_BYTES))
            sha256.update(file.read())
        return Examined(version, sha256.hexdigest())


_POLYNOMIAL = 0x104C11DB7
_ALL_ONES = 0xFFFFFFFF
# The polynomial is primitive: the powers of x repeat after so many.
_ORDER = _ALL_ONES
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Remainder:
    """What is left of some bytes, and how many they are."""

    value: int = 0
    size_bytes: int = 0

    def __add__(self, other: Remainder) -> Remainder:
        """The remainder of these bytes followed by the other's."""
        value = _shifted(self.value, other.size_bytes) ^ other.value
        return Remainder(value, self.size_bytes + other.size_bytes)

    def followed_by(self, block: bytes) -> Remainder:
        """The remainder of these bytes followed by `block`."""
        # zlib's is the same polynomial with the bits of each byte, and of the remainder, the other way round.
        start = _reversed_bits(self.value) ^ _ALL_ONES
        value = _reversed_bits(zlib.crc32(block.translate(_REVERSED), start) ^ _ALL_ONES)
        return Remainder(value, self.size_bytes + len(block))

    def without(self, first: Remainder) -> Remainder:
        """The remainder of what follows `first` in these bytes."""
        size = self.size_bytes - first.size_bytes
        return Remainder(self.value ^ _shifted(first.value, size), size)

    @property
    def cksum(self) -> int:
        """What `cksum` prints for these bytes."""
        return self.followed_by(_octets(self.size_bytes)).value ^ _ALL_ONES

    @staticmethod
    def from_cksum(printed: str) -> Remainder:
        """The remainder behind a line that `cksum` printed for its stdin: sum and size."""
        cksum, size = map(int, printed.split()[:2])
        octets = _octets(size)
        value = cksum ^ _ALL_ONES ^ Remainder().followed_by(octets).value
        return Remainder(_shifted(value, -len(octets)), size)


def _octets(size: int) -> bytes:
    return size.to_bytes((size.bit_length() + 7) // 8, "little")


def _shifted(value: int, size_bytes: int) -> int:
    """`value` times x to the power of so many bits."""
    power, factor = 1, 2
    exponent = 8 * size_bytes % _ORDER
    while exponent:
        if exponent & 1:
            power = _product(power, factor)
        factor = _product(factor, factor)
        exponent >>= 1
    return _product(value, power)


def _product(left: int, right: int) -> int:
    product = 0
    while right:
        if right & 1:
            product ^= left
        left <<= 1
        if left > _ALL_ONES:
            left ^= _POLYNOMIAL
        right >>= 1
    return product


def _reversed_bits(value: int) -> int:
    return int(f"{value:032b}"[::-1], 2)
