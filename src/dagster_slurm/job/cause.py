"""Why a payload has failed, as far as the end of its stderr tells. Pure."""

from __future__ import annotations

import re
from itertools import takewhile

from dagster_slurm.text import printable

_MOST_CHARACTERS = 300
# What our own scripts say.
_OURS = "dagster-slurm: "
# What `srun --label` puts in front of a line.
_RANK = re.compile(r"^ *\d+: ?")
_FRAME = re.compile(r' +File ".*", line \d+')
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?::| *$)")
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'", re.ASCII)


def exception_in(stderr: str) -> str:
    """The exception that Python's last traceback names, its first line; empty without one."""
    lines = [_RANK.sub("", line) if _FRAME.match(_RANK.sub("", line)) else line for line in stderr.splitlines()]
    frames = [number for number, line in enumerate(lines) if _FRAME.match(line)]
    if not frames:
        return ""
    after = (_RANK.sub("", line) for line in lines[frames[-1] + 1 :])
    found = next((line for line in after if line and not line[0].isspace()), "")
    return _shown(found) if _EXCEPTION.match(found) else ""


def last_line(stderr: str) -> str:
    """The last line that is not blank; empty without one.

    Of ours, the first of the last: the cause comes before what follows from it.
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    ours = list(takewhile(lambda line: line.startswith(_OURS), reversed(lines)))
    return _shown(ours[-1].removeprefix(_OURS) if ours else lines[-1]) if lines else ""


def missing_module(cause: str) -> str:
    """The module that an exception says is not there; empty if it says something else."""
    found = _NO_MODULE.match(cause)
    return found[1] if found else ""


def _shown(line: str) -> str:
    text = printable(line.strip())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
