"""The program `threaded.py`, with its round trips counted."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import counting  # noqa: F401
from threaded import defs  # noqa: F401
