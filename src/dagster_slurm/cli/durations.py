"""Durations and sizes of storage as they are typed: a number and a unit."""

from __future__ import annotations

import re
from collections.abc import Mapping

import click

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_UNIT_BYTES = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def seconds(context: click.Context, option: click.Parameter, value: str) -> float:
    """A number and a unit, as in `3d`, in seconds."""
    number, unit = _read(context, option, value, _UNIT_SECONDS, "duration", "s, m, h, d and w, as in 3d")
    return float(number * unit)


def size_bytes(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """A number and a unit, as in `50G`, in bytes; `G` is GiB."""
    if value is None:
        return None
    number, unit = _read(context, option, value, _UNIT_BYTES, "size", "M, G and T, as in 50G")
    return number * unit


def _read(
    context: click.Context, option: click.Parameter, value: str, units: Mapping[str, int], what: str, allowed: str
) -> tuple[int, int]:
    match = re.fullmatch(rf"([0-9]{{1,6}})([{''.join(units)}])", value)
    if match is None:
        problem = f"{value!r} is not a {what}. Give a number and one of {allowed}."
        raise click.BadParameter(problem, context, option)
    return int(match[1]), units[match[2]]
