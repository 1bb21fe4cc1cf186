"""The page docs/reliability.md, made from figures that the suite has measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .rows import LINES, SECTIONS, Line

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
_HEAD = """\
# Reliability

This page lists faults, and what becomes of a piece of work in each, measured by the suite in `tests/faults/` on a real
Slurm cluster (the [sandbox](sandbox.md)) with real Dagster processes. The payload writes a mark at each start and each
end, and prints numbered lines. `make faults` runs all trials and writes this page.

- **executed**: how often the payload was started, and **jobs**: how many jobs ran it, in one trial.
- **end**: the end of the last run of the trial.
- **missing**, **doubled**: lines in the step's log of the run that ended it, all trials together.
- **trials**: how many there were. Random moments lie between the start of the step and the end of the run.
- A row without figures has not been run in full yet.

`make test` takes one trial of each row, but for the tests at the end of this page, which `make faults` alone runs.
"""
_LONG_HEAD = "\n## In `make faults` alone\n\n"
_COLUMNS = """\
| what is done | trials | executed | jobs | end | missing | doubled | test |
|---|--:|--:|--:|---|--:|--:|---|
"""


def page(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of the page."""
    parts = [_HEAD]
    for title, rows in SECTIONS.items():
        parts.append(f"\n## {title}\n\n{_COLUMNS}")
        parts += [_row(line, figures.get(key)) for key, line in rows.items()]
    return "".join([*parts, long_section()])


def long_section() -> str:
    """The tests that have the marker `all_faults`, as pytest collects them: each with its parameters."""
    argv = [sys.executable, "-m", "pytest", "tests", "--collect-only", "-q", "-m", "all_faults", "-p", "no:randomly"]
    # Without FAULTS_FIGURES: at its end it would write the page, too, and for that start another one, and so on.
    left_out = ("PYTEST_", "FAULTS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    done = subprocess.run(
        argv, cwd=ROOT, env={**environment, "FAULTS": "all"}, capture_output=True, text=True, check=False
    )
    found = [line.removeprefix("tests/") for line in done.stdout.splitlines() if line.startswith("tests/")]
    assert found, done.stdout + done.stderr
    return _LONG_HEAD + "".join(f"- `{name}`\n" for name in sorted(found))


def _row(line: Line, figures: Mapping[str, Any] | None) -> str:
    names = ("trials", "executed", "jobs", "end", "missing", "doubled")
    cells = [str(figures[name]) if figures else "" for name in names]
    if not line.measured:
        kind = "unit test" if line.test.startswith("unit/") else "asserted"
        cells = ["-", "-", "-", kind, "-", "-"]
    return f"| {' | '.join([line.text, *cells, f'`{line.test}`'])} |\n"


def write(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the page, if there are figures for every row, and tell what was done."""
    missing = [key for key, line in LINES.items() if line.measured and key not in figures]
    if missing:
        return f"{PAGE.name} is left as it was: there are no figures for {', '.join(missing)}"
    PAGE.write_text(page(figures), encoding="utf-8")
    return f"{PAGE.name} was written"


def rows_of(text: str) -> list[tuple[str, str]]:
    """What is done, and by which test, of every row of a page."""
    return re.findall(r"^\| ([^|]+) \|.*\| `([^`|]+)` \|$", text, re.MULTILINE)


def main() -> None:
    """Write the page's last section again, with what pytest collects now; the figures stay."""
    text = PAGE.read_text(encoding="utf-8").partition(_LONG_HEAD)[0]
    PAGE.write_text(text + long_section(), encoding="utf-8")


if __name__ == "__main__":
    main()
