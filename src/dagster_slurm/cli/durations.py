"""Durations and sizes of storage as they are typed: a number and a unit."""

from __future__ import annotations

import re

import click

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_UNIT_BYTES = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def seconds(context: click.Context, option: click.Parameter, value: str) -> float:
    """A number and a unit, as in `3d`, in seconds."""
    match = re.fullmatch(r"([0-9]{1,6})([smhdw])", value)
    if match is None:
        problem = f"{value!r} is not a duration. Give a number and one of s, m, h, d and w, as in 3d."
        raise click.BadParameter(problem, context, option)
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def size_bytes(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """A number and a unit, as in `50G`, in bytes; `G` is GiB."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})([MGT])", value)
    if match is None:
        problem = f"{value!r} is not a size. Give a number and one of M, G and T, as in 50G."
        raise click.BadParameter(problem, context, option)
    return int(match[1]) * _UNIT_BYTES[match[2]]
