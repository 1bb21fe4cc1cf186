"""Tables of words: as wide as they are for programs, no wider than the terminal for people. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from dagster_slurm.text import printable

_GAP = 2
_RUN_ID = re.compile(r"\b([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        heading: What stands above it.
        goes: Where there is no room for all, the one with the highest goes first; one with 0 never does.
        least: To how few characters its words may be cut; None if they may not.
    """

    heading: str
    goes: int = 0
    least: int | None = None


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of words as lines, each column as wide as it has to be."""
    widths = [max(map(_cells_of, column)) for column in zip(*rows, strict=True)]
    return [(" " * _GAP).join(map(cut, row, widths)).rstrip() for row in rows]


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Rows below their headings.

    Args:
        columns: The columns.
        rows: A word for each of them; a dash is for what is not known.
        width: How wide it may be; None for all columns and whole words, without a space in them.
    """
    headings = [column.heading for column in columns]
    if width is None:
        return aligned([headings, *(["_".join(word.split()) for word in row] for row in rows)])
    cells = [headings, *([printable(" ".join(word.split())) for word in row] for row in rows)]
    kept = _kept(columns, cells, width)
    cells = [[row[n] for n in kept] for row in cells]
    widths = _shared_out([columns[n] for n in kept], cells, width)
    return [(" " * _GAP).join(map(cut, row, widths)).rstrip() for row in cells]


def _kept(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """The numbers of the columns for which there is room. Of those that may go, empty ones go anyway."""
    kept = [n for n, each in enumerate(columns) if not each.goes or any(row[n] != "-" for row in cells[1:])]
    least = [min(_width(cells, n), column.least or width) for n, column in enumerate(columns)]
    for number in sorted(kept, key=lambda n: -columns[n].goes):
        if columns[number].goes and _total([least[n] for n in kept]) > width:
            kept.remove(number)
    return kept


def _shared_out(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """How wide each column is: what may be cut gives what is missing, the widest first."""
    widths = [_width(cells, n) for n in range(len(columns))]
    while _total(widths) > width:
        giving = [n for n, column in enumerate(columns) if column.least is not None and widths[n] > column.least]
        if not giving:
            break
        widths[max(giving, key=lambda n: widths[n])] -= 1
    return widths


def _width(cells: Sequence[Sequence[str]], number: int) -> int:
    return max(_cells_of(row[number]) for row in cells)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _cells_of(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - seldom needed

    return cell_len(text)


def cut(text: str, width: int) -> str:
    """A text of so many cells; an ellipsis stands for what had to go."""
    if _cells_of(text) <= width:
        return text + " " * (width - _cells_of(text))
    from rich.cells import set_cell_size  # noqa: PLC0415

    return set_cell_size(text, max(0, width - 1)) + "…"


def fitted(line: str, width: int | None) -> str:
    """A line, cut where it is longer than there is room; whole without a width."""
    return line if width is None else cut(line, width).rstrip()


def wrapped(text: str, width: int | None, *, indent: int = 0, hanging: int | None = None) -> list[str]:
    """A text as lines; a word that is longer than one, as a path may be, stays whole.

    Args:
        text: The text.
        width: How long a line may be; None for one line, whatever its length.
        indent: How far the first is indented.
        hanging: How far the others are; as the first one by default.
    """
    first, rest = " " * indent, " " * (indent if hanging is None else hanging)
    if width is None:
        return [first + text]
    made = textwrap.TextWrapper(
        max(width, len(rest) + 20),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return made.wrap(text) or [first]


def without_long_ids(text: str) -> str:
    """The same with ids of runs as Dagster's UI shows them, and an ellipsis."""
    return _RUN_ID.sub("\\1…", text)
