"""Globs over lists of names: `*`, `?`, `[...]`, and `**` for any directories. Pure.

As `glob` of Python and bash (`globstar`) have them: a wildcard matches no slash and no dot at the beginning. What
matches a directory stands for every file below it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from dagster_slurm.errors import InvalidRequestError, OutputNotFoundError

_WILDCARD = re.compile(r"[*?[]")
_ANY_DIRECTORIES = "**"


def has_wildcard(pattern: str) -> bool:
    """Whether a pattern is more than a path."""
    return _WILDCARD.search(pattern) is not None


def fixed_part(pattern: str) -> str:
    """The directory, with its slash, from which the names that a pattern finds are counted.

    That is what stands before the first wildcard or, without one, before the path's own name.
    """
    first = _WILDCARD.search(pattern)
    return pattern[: pattern.rfind("/", 0, first.start() if first else None) + 1]


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names of files that a pattern stands for, in their order."""
    return [name for name in names if matched_part(pattern, name) is not None]


def matched_part(pattern: str, name: str) -> str | None:
    """The name itself, or the directory above it, that a pattern matches; the shortest."""
    wanted, parts = tuple(pattern.split("/")), tuple(name.split("/"))
    lengths = (length for length in range(1, len(parts) + 1) if _matches(wanted, parts[:length]))
    length = next(lengths, None)
    return None if length is None else "/".join(parts[:length])


def checked_output(pattern: str) -> str:
    """A pattern for what a payload leaves in its working directory.

    Raises:
        InvalidRequestError: It can only be met outside, or is none.
    """
    plain = pattern.removeprefix("./").rstrip("/")
    if not plain or plain.startswith("/") or not {"", ".", ".."}.isdisjoint(plain.split("/")):
        raise InvalidRequestError(
            f"{pattern!r} is not a path or glob in the working directory",
            hint="Outputs are relative to the payload's working directory, without `.` and `..`.",
        )
    if not {"\n", "\0", "\\"}.isdisjoint(plain):
        raise InvalidRequestError(f"The output {pattern!r} holds a line break, a backslash or a NUL")
    return plain


def _matches(wanted: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    if not wanted or not parts:
        # `out/**` finds `out` itself.
        return not parts and wanted in ((), (_ANY_DIRECTORIES,))
    first, rest = wanted[0], wanted[1:]
    if first == _ANY_DIRECTORIES:
        # At the end it stands for a name, elsewhere for no directory as well.
        passes = not parts[0].startswith(".")
        return (bool(rest) and _matches(rest, parts)) or (passes and _matches(wanted if rest else (), parts[1:]))
    return _matches_part(first, parts[0]) and _matches(rest, parts[1:])


def _matches_part(wanted: str, part: str) -> bool:
    if not has_wildcard(wanted):
        return wanted == part
    return (wanted.startswith(".") or not part.startswith(".")) and fnmatch.fnmatchcase(part, wanted)


_SHOWN_NAMES = 20
_HINT = (
    "If the glob is wrong, correct it and re-execute from failure: the result is collected, and nothing is run again. "
    "If the payload is, materialise anew."
)


def select(patterns: Iterable[str], names: Iterable[str], put_there: Collection[str]) -> Mapping[str, list[str]]:
    """The files for each pattern.

    What lay there before the payload started is an output only if it is named exactly.
    """
    ordered = sorted(names)
    return {
        pattern: [name for name in matching(pattern, ordered) if name == pattern or name not in put_there]
        for pattern in patterns
    }


def kept_names(selected: Mapping[str, Sequence[str]], patterns: Iterable[str]) -> list[str]:
    """What the patterns themselves match: the files, or the directories above them; nothing that lies in another."""
    parts = {matched_part(pattern, name) or name for pattern in patterns for name in selected[pattern]}
    return sorted(part for part in parts if not any(part.startswith(f"{other}/") for other in parts))


def missing(selected: Mapping[str, Sequence[str]]) -> list[str]:
    """The patterns that have found nothing."""
    return [pattern for pattern, names in selected.items() if not names]


def output_not_found(
    patterns: Sequence[str], left: Iterable[str], *, kept_path: str | None, host: str, job_id: str | None = None
) -> OutputNotFoundError:
    """The error for outputs that are not there, with the names of what is."""
    names = sorted(left)
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    there = f"There is: {', '.join(names[:_SHOWN_NAMES])}{more}." if names else "There is nothing that it has written."
    listed = ", ".join(map(repr, patterns))
    kept = f"Kept: {kept_path}" if kept_path else "Nothing was kept (debug_mode=True keeps the directory)"
    return OutputNotFoundError(
        f"The payload succeeded, and no file matches the output {listed}. {there} {kept}",
        hint=_HINT if job_id else None,
        host=host,
        job_id=job_id,
    )
