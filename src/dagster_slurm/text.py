"""Text for people."""

from __future__ import annotations

import dataclasses
import enum
import os
import re
from collections.abc import Iterable, Mapping
from reprlib import recursive_repr
from typing import Any

# Characters that a terminal obeys, and those that turn the order of what is read: CVE-2021-42574.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Text in which a terminal obeys tabs and ends of lines alone; any other such character is shown, as `\x1b`."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question with the nearest of some names, for the front of a hint; empty if none is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - for errors alone

    near = get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


def counted(number: float, noun: str, form: str = "") -> str:
    """A number with its noun: "1 file", "2 files", "3 processes".

    Args:
        number: How many.
        noun: What, in the singular.
        form: How the number is written, as `format` has it: "," or "g".
    """
    written = f"{number:{form}}"
    return f"{written} {noun}{'' if written == '1' else 'es' if noun.endswith(('s', 'x', 'ch')) else 's'}"


def size_words(size_bytes: float) -> str:
    """Bytes in the unit that fits, a power of 1024, to three digits: "200 MiB", "1.5 GiB"."""
    amount, units = float(size_bytes), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        del units[0]
    return f"{amount:.0f} {units[0]}" if amount >= 100 else f"{amount:.3g} {units[0]}"


def duration_words(seconds: float) -> str:
    """A duration in the unit that fits: "42 s", "21 min", "2.5 h", "3 d"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    length, unit = (3600, "h") if seconds < 172_800 else (86_400, "d")
    return f"{seconds / length:.1f}".removesuffix(".0") + f" {unit}"


def as_text(value: object) -> str:
    """A value by itself, as in a table: a text, a path or a member of an enum bare, anything else `as_written`."""
    bare = _bare(value)
    return bare if isinstance(bare, str) else as_written(bare)


@recursive_repr("...")
def as_written(value: object) -> str:
    """A value as people write it in code: 'a' for `Path("a")`, and of a dataclass or resource the fields given."""
    bare = _bare(value)
    if isinstance(bare, Mapping):
        return f"{{{', '.join(f'{as_written(key)}: {as_written(each)}' for key, each in bare.items())}}}"
    if isinstance(bare, list | tuple | set | frozenset) and bare and not hasattr(bare, "_fields"):
        begin, end = {list: ("[", "]"), tuple: ("(", ")")}.get(type(bare), ("{", "}"))
        last = "," if isinstance(bare, tuple) and len(bare) == 1 else ""
        return f"{begin}{', '.join(map(as_written, bare))}{last}{end}"
    if (fields := _fields_of(bare)) is not None:
        return f"{type(bare).__name__}({', '.join(f'{name}={as_written(each)}' for name, each in fields.items())})"
    if callable(bare) and hasattr(bare, "__qualname__"):
        return str(bare.__qualname__)
    # An address in memory is nothing that anybody has written.
    return f"{type(bare).__name__}(...)" if type(bare).__repr__ is object.__repr__ else repr(bare)


def _bare(value: object) -> object:
    if isinstance(value, enum.Enum):
        return _bare(value.value)
    return os.fsdecode(value) if isinstance(value, os.PathLike) else value


def _fields_of(value: Any) -> dict[str, object] | None:
    """What was given for the fields of a dataclass or a Pydantic model; None for anything else."""
    if isinstance(value, type):
        return None
    if hasattr(value, "model_fields_set"):
        shown = [name for name, field in type(value).model_fields.items() if field.repr]
        return {name: getattr(value, name) for name in shown if name in value.model_fields_set}
    if not dataclasses.is_dataclass(value):
        return None
    given = {field: getattr(value, field.name) for field in dataclasses.fields(value) if field.repr}
    return {field.name: each for field, each in given.items() if each != field.default}


def error_words(error: BaseException) -> str:
    """An error of somebody else's in a sentence: its kind, and what it says; `repr` leaves out an `OSError`'s file."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")
