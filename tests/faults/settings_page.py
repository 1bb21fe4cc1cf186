"""The page docs/wrong-settings.md, made from what the suite has read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .settings import SETTINGS, Wrong

if TYPE_CHECKING:
    from dagster_slurm.sandbox import LoginNode

PAGE = Path(__file__).parents[2] / "docs" / "wrong-settings.md"
_LONG_SECONDS = 20.0
_HEAD = """\
# Wrong settings

This page shows the text of a run's failure, for forty settings that are wrong in one thing, each tried with a real
run on the [sandbox](sandbox.md): how many seconds after the begin of the call it is reported, how many logins are
tried, the first line, and the second, which says what to do. Errors with a star are tried again by a `RetryPolicy`;
the rest ends the same again. `make faults` tries them all, and writes this page
(`tests/faults/test_wrong_settings.py`); `make test` tries ten.

"""
_COLUMNS = "| what is wrong | s | logins | first line | then |\n|---|--:|--:|---|---|\n"


@dataclass(frozen=True)
class Read:
    """What was read of one.

    Args:
        seconds: When it was reported.
        first: The first line.
        hint: The second.
    """

    seconds: float
    first: str
    hint: str

    @classmethod
    def of(cls, seconds: float, lines: list[str], *, node: LoginNode, work: Path, port: int) -> Read:
        """The lines as they would read elsewhere: without what is of this trial alone."""
        places = {
            str(work): "/home/me/project",
            f"{node.user}@127.0.0.1:{node.port}": "me@login.cluster",
            f"{node.user}@127.0.0.1:{port}": "me@login.cluster",
            f"{node.user}@127.0.0.1": "me@login.cluster",
            f"[127.0.0.1]:{node.port}": "login.cluster",
            f"port {port}": "port 22",
            "127.0.0.1": "login.cluster",
            f":{node.port}": "",
            node.user: "me",
        }
        texts = []
        for text in lines[:2]:
            for found, stands_for in places.items():
                text = text.replace(found, stands_for)  # noqa: PLW2901 - one after the other
            texts.append(re.sub(r"/\S*/home/me/", "/home/me/", text))
        return cls(round(seconds, 1), *texts)


def page(read: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of the page."""
    return _HEAD + _COLUMNS + "".join(_row(wrong, Read(**read[name])) for name, wrong in SETTINGS.items())


def _row(wrong: Wrong, read: Read) -> str:
    seconds = f"{read.seconds:.0f} (for {wrong.waits_for})" if wrong.waits_for else f"{read.seconds:.1f}"
    star = " \\*" if wrong.is_retried else ""
    cells = (f"{wrong.text}{star}", seconds, str(wrong.logins), _code(read.first), _code(read.hint))
    return f"| {' | '.join(cells)} |\n"


def _code(line: str) -> str:
    """A line as it is, in a cell."""
    fence = "``" if "`" in line else "`"
    space = " " if "`" in line else ""
    return f"{fence}{space}{line.replace('|', chr(92) + '|')}{space}{fence}"


def rows_of(text: str) -> list[str]:
    """What is wrong, in every row of a page."""
    return re.findall(r"^\| ([^|]+?)(?: \\\*)? \| [\d.]+", text, re.MULTILINE)


def write(read: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the page, if every setting was tried, and tell what was done."""
    missing = sorted(SETTINGS.keys() - read.keys())
    if missing:
        return f"{PAGE.name} is left as it was: not tried were {', '.join(missing)}"
    PAGE.write_text(page(read), encoding="utf-8")
    return f"{PAGE.name} was written"
