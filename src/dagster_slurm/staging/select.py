"""Which of the files that a payload left are its outputs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from dagster_slurm.errors import OutputNotFoundError
from dagster_slurm.staging.patterns import matched_part, matching

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
