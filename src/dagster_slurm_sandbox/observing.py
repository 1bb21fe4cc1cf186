"""Reading from logs and from `sdiag` what a client has cost the cluster."""

from __future__ import annotations

import re
from pathlib import Path

# OpenSSH 9.2, LogLevel VERBOSE: "Accepted publickey for USER from ..." and "Starting session: command for USER".
LOGIN = re.compile(r"^Accepted \S+ for ", re.MULTILINE)
SESSION = re.compile(r"^Starting session: ", re.MULTILINE)
# "Failed none" is how a client asks which ways there are.
FAILURE = re.compile(r"^Failed (?!none )\S+ for ", re.MULTILINE)
_BY_TYPE = "Remote Procedure Call statistics by message type"
_BY_USER = "Remote Procedure Call statistics by user"
_COUNTED = re.compile(r"^\s+(\S+)\s*\(\s*\d+\)\s+count:(\d+)", re.MULTILINE)


def count(log: Path, pattern: re.Pattern[str]) -> int:
    """How often a pattern occurs in a log; 0 if there is none."""
    try:
        return len(pattern.findall(log.read_text(encoding="utf-8", errors="replace")))
    except FileNotFoundError:
        return 0


def rpc_counts(sdiag: str, user: str) -> dict[str, int]:
    """Read the text of `sdiag` (22.05 has no stable JSON).

    Args:
        sdiag: What it printed.
        user: Whose requests are wanted.

    Returns:
        `REQUEST_...` of all users, and as `total` the number of that user's requests.
    """
    by_type = sdiag.partition(_BY_TYPE)[2].partition(_BY_USER)[0]
    by_user = sdiag.partition(_BY_USER)[2]
    counts = {name: int(number) for name, number in _COUNTED.findall(by_type)}
    users = {name: int(number) for name, number in _COUNTED.findall(by_user)}
    return {**counts, "total": users.get(user, 0)}
