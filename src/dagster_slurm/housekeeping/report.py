"""What `dagster-slurm clean` prints. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dagster_slurm.housekeeping.cleaning import Leftover
from dagster_slurm.housekeeping.rows import aligned


def lines_of(found: Sequence[Leftover], done: Mapping[Leftover, bool] | None) -> list[str]:
    """A line for each.

    Args:
        found: What there is.
        done: Of what was to be removed, whether it is gone; None if nothing was to be done yet.
    """
    return aligned([(_verb(each, done), size(each.kib), " ".join(each.paths), each.decision.reason) for each in found])


def summary(found: Sequence[Leftover], done: Mapping[Leftover, bool] | None) -> str:
    """The last line."""
    removable = [each for each in found if each.decision.removed]
    kept = len(found) - len(removable)
    if done is None:
        told = f"{len(removable)} to remove ({_total(removable)}), {kept} to keep."
        return f"{told} Nothing was removed; --yes does it." if removable else told
    gone = [each for each in removable if done[each]]
    changed = len(removable) - len(gone)
    told = f"{len(gone)} removed ({_total(gone)}), {kept + changed} kept."
    return f"{told} {changed} could not be removed, or have changed meanwhile." if changed else told


def as_json(found: Sequence[Leftover], done: Mapping[Leftover, bool] | None, *, base: str) -> dict[str, Any]:
    """The same for programs."""
    rows = [
        {
            "paths": [f"{base}/{path}" for path in each.paths],
            "action": _verb(each, done),
            "reason": each.decision.reason,
            "kib": each.kib,
        }
        for each in found
    ]
    return {"remote_base": base, "leftovers": rows}


def size(kib: int | None) -> str:
    """An amount of storage, in its largest unit."""
    if kib is None:
        return "-"
    for unit, length in (("TiB", 1 << 30), ("GiB", 1 << 20), ("MiB", 1 << 10)):
        if kib >= length:
            return f"{kib / length:.1f} {unit}"
    return f"{kib} KiB"


def _total(found: Sequence[Leftover]) -> str:
    return size(sum(each.kib or 0 for each in found))


def _verb(each: Leftover, done: Mapping[Leftover, bool] | None) -> str:
    if not each.decision.removed:
        return "keep"
    if done is None:
        return "remove"
    return "removed" if done[each] else "left"
