"""Payloads of a known use of memory, and what is to be reported of them."""

from __future__ import annotations

import pytest

HAS_150_MIB = """
import time
block = bytearray(142 << 20)  # and Python
time.sleep(0.5)
"""
# Its own memory is known by looks alone where the kernel has dropped some of the file: two seconds are longer than a
# busy machine keeps the one who looks waiting (0.8 s were not).
READS_1_GIB = """
import time
block = bytearray(100 << 20)
time.sleep(2)
with open("large", "wb") as file:
    file.truncate(1 << 30)
with open("large", "rb", buffering=0) as file:
    while file.readinto(memoryview(block)[: 1 << 20]):
        pass
"""
# As the kernel does where memory is short; most often between two looks, which come after a fifth of the job's age.
DROPS_200_MIB = """
import os, time
block = bytearray(100 << 20)
time.sleep(2)
with open("large", "w+b", buffering=0) as file:
    file.truncate(200 << 20)
    while file.readinto(memoryview(block)[: 1 << 20]):
        pass
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
"""


def is_150_mib(mib: float) -> bool:
    """Whether it is what `HAS_150_MIB` has had."""
    return bool(mib == pytest.approx(150, rel=0.2))


def is_without_files(mib: float) -> bool:
    """Whether it is what `READS_1_GIB` and `DROPS_200_MIB` have had of their own."""
    return 100 <= mib < 200
