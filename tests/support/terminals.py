"""Programs on a terminal of so many columns."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import forked

COLUMNS = 80


def lines_on_a_terminal(
    arguments: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: Path | None = None,
    columns: int = COLUMNS,
    typed: Mapping[str, str] | None = None,
) -> tuple[int, list[str]]:
    """How `dagster-slurm` ends, and the lines that it has written to a terminal; `typed` answers what it shows."""
    terminal, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {**{name: value for name, value in env.items() if name != "COLUMNS"}, "TERM": "xterm", "NO_COLOR": "1"}
    argv = [sys.executable, "-m", "dagster_slurm.cli", *arguments]
    process = forked.start(argv, env=variables, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, waiting, deadline = "", dict(typed or {}), time.monotonic() + 120.0
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            block = os.read(terminal, 4096)
        except OSError:
            # Nobody has the other end any more.
            break
        if not block:
            break
        shown += block.decode("utf-8", "replace")
        for prompt in [prompt for prompt in waiting if prompt in shown]:
            os.write(terminal, f"{waiting.pop(prompt)}\n".encode())
    os.close(terminal)
    return process.wait(30), shown.splitlines()


def assert_fits(lines: Sequence[str], columns: int = COLUMNS) -> None:
    """No line is longer than the terminal is wide, but for a path alone, which stays whole to be copied."""
    assert [line for line in lines if len(line) > columns and len(line.split()) > 1] == []
