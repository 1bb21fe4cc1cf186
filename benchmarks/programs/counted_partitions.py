"""The program `partitions.py`, with its round trips counted."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import counting  # noqa: F401

from partitions import defs  # noqa: F401
