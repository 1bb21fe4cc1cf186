"""The sum of POSIX `cksum`, for content that is summed in pieces.

Source: cksum(1p), IEEE Std 1003.1: the remainder of the content as a polynomial over GF(2), then of the content's
length, complemented. A remainder of a whole follows from those of its parts.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

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
