"""What was measured, as values that go to a file and come back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = Path(__file__).resolve().parent / "figures.json"


@dataclass(frozen=True)
class Row:
    """One contender with one number of jobs.

    Args:
        contender: Its key.
        number: Of jobs, or of the array's tasks.
        wall_seconds: From the start of the command to its end.
        cpu_seconds: User and system time of the command and everything it started.
        memory_mib: The highest sum of proportional set sizes (PSS) of these processes.
        processes: The most of these processes at one time.
        logins: Accepted by the login node's sshd.
        channels: Sessions opened there.
        rpcs: Calls of the controller by the user, from `sdiag`.
        delay_p50_seconds: From the printing of a line to its arrival in Dagster's log; none without Dagster.
        delay_p99_seconds: The same.
        failed: Why there are no figures, if it has failed.
    """

    contender: str
    number: int
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_mib: float = 0.0
    processes: int = 0
    logins: int = 0
    channels: int = 0
    rpcs: int = 0
    delay_p50_seconds: float | None = None
    delay_p99_seconds: float | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Table:
    """What one of the other benchmarks has printed."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figures:
    """Everything of one run.

    Args:
        date: When, as YYYY-MM-DD.
        load_before: Of this machine, over the minute before the start.
        circumstances: Of the machine and the versions, by what they are.
        jobs: Many jobs at once.
        arrays: Job arrays.
        others: What the other benchmarks have printed.
    """

    date: str
    load_before: float
    circumstances: Mapping[str, str]
    jobs: Sequence[Row]
    arrays: Sequence[Row]
    others: Sequence[Table]


def as_text(figures: Figures) -> str:
    """The figures as JSON."""
    return json.dumps(asdict(figures), indent=1) + "\n"


def from_text(text: str) -> Figures:
    """Read what `as_text` has written."""
    found = json.loads(text)
    return Figures(
        date=found["date"],
        load_before=found["load_before"],
        circumstances=found["circumstances"],
        jobs=[Row(**row) for row in found["jobs"]],
        arrays=[Row(**row) for row in found["arrays"]],
        others=[Table(**table) for table in found["others"]],
    )


def tables_of(printed: str) -> list[Table]:
    """The Markdown tables in a program's output, each below a line `## TITLE`."""
    tables: list[Table] = []
    for line in printed.splitlines():
        if line.startswith("## "):
            tables.append(Table(line[3:], [], []))
        elif line.startswith("| ") and tables:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            last = tables[-1]
            if not last.header:
                tables[-1] = Table(last.title, cells, [])
            elif set("".join(cells)) != {"-"}:
                tables[-1] = Table(last.title, last.header, [*last.rows, cells])
    return tables
