"""Payloads of a known use of memory, and what is to be reported of them."""

from __future__ import annotations

import pytest

HAS_150_MIB = """
import time
block = bytearray(142 << 20)  # and Python
time.sleep(0.5)
"""
READS_1_GIB = """
import time
block = bytearray(100 << 20)
with open("large", "wb") as file:
    file.truncate(1 << 30)
with open("large", "rb", buffering=0) as file:
    while file.readinto(memoryview(block)[: 1 << 20]):
        pass
time.sleep(0.5)
"""


def is_150_mib(mib: float) -> bool:
    """Whether it is what `HAS_150_MIB` has had."""
    return bool(mib == pytest.approx(150, rel=0.2))


def is_without_files(mib: float) -> bool:
    """Whether it is what `READS_1_GIB` has had of its own."""
    return 100 <= mib < 200
