"""Durations, amounts of memory, TRES lists and times, as Slurm writes and reads them.

What a user asks for fails with InvalidQuantityError; what Slurm printed fails with SlurmOutputError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone

from dagster_slurm.errors import InvalidQuantityError, SlurmOutputError
from dagster_slurm.text import as_written

TIME_FORMS = (
    "MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS, DAYS-HOURS:MINUTES, "
    "DAYS-HOURS:MINUTES:SECONDS, UNLIMITED; or in words, as in 2h, 1 hour 30 min, 3 days"
)
MEMORY_FORMS = (
    "a whole number of MiB, or a whole number with one of K, M, G, T (GB and GiB mean the same as G, a power of 1024)"
)

# More digits has nothing that Slurm counts; of some thousands, Python makes no number.
_NUMBER = r"\d{1,18}"
_UNLIMITED_WORDS = frozenset({"UNLIMITED", "INFINITE", "-1"})
_TIME_LIMIT = re.compile(r"(?:(?P<days>\d{1,9})-)?(?P<fields>\d{1,9}(?::\d{1,9}){0,2})", re.ASCII)
# As people write them, and sbatch does not take them.
_IN_WORDS = re.compile(
    r"(?P<number>\d{1,9})\s*(?P<unit>d(?:ays?)?|h(?:ours?|rs?)?|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)(?![a-z])[\s,]*",
    re.ASCII | re.IGNORECASE,
)
_SECONDS_OF = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_ELAPSED = re.compile(
    rf"(?:(?:(?P<days>{_NUMBER})-)?(?P<hours>{_NUMBER}):)?(?P<minutes>{_NUMBER}):(?P<seconds>{_NUMBER}(?:\.{_NUMBER})?)",
    re.ASCII,
)
_MEMORY_REQUEST = re.compile(r"(?P<amount>\d{1,12})(?:\s*(?P<unit>[KMGT])(?:i?B)?)?", re.ASCII | re.IGNORECASE)
_MEMORY_OUTPUT = re.compile(rf"(?P<amount>{_NUMBER}(?:\.{_NUMBER})?)(?P<unit>[KMGTPE]?)B?[nc]?", re.ASCII)
_BYTES: dict[str, int] = {unit: 1024**power for power, unit in enumerate(["", "K", "M", "G", "T", "P", "E"])}
_NO_TIME = frozenset({"", "UNKNOWN", "NONE", "N/A", "(NULL)"})


def parse_time_limit_seconds(value: str | int) -> int | None:
    """Read a time limit as sbatch(1) `--time` does, or as people write it.

    Args:
        value: Minutes as an int, or one of the forms "minutes", "minutes:seconds", "hours:minutes:seconds",
            "days-hours", "days-hours:minutes", "days-hours:minutes:seconds"; or with units, "2h", "1 hour 30 min";
            UNLIMITED, INFINITE or -1 for none.

    Returns:
        Seconds, or None for unlimited; zero is unlimited too (sbatch(1), option --time).

    Raises:
        InvalidQuantityError: None of these forms.
    """
    text = _request_text(value, "time limit", TIME_FORMS)
    if text.upper() in _UNLIMITED_WORDS:
        return None
    match = _TIME_LIMIT.fullmatch(text)
    if not match:
        # A limit of nothing, which to sbatch is none at all, nobody writes with a unit and means it.
        in_words = _seconds_in_words(text)
        if not in_words:
            raise _invalid("time limit", value, TIME_FORMS)
        return in_words
    fields = [int(field) for field in match.group("fields").split(":")]
    return _limit_seconds(match.group("days"), fields) or None


def _seconds_in_words(text: str) -> int:
    """The seconds of "1h 30min", each unit once and the largest first; 0 if it is nothing of that kind."""
    found = list(_IN_WORDS.finditer(text))
    sizes = [_SECONDS_OF[each["unit"][0].lower()] for each in found]
    if "".join(each[0] for each in found) != text or sizes != sorted(set(sizes), reverse=True):
        return 0
    return sum(int(each["number"]) * size for each, size in zip(found, sizes, strict=True))


def format_time_limit(seconds: int | None) -> str:
    """Seconds as "days-hours:minutes:seconds" (without days below one), None as UNLIMITED.

    Raises:
        InvalidQuantityError: Less than one second.
    """
    if seconds is None:
        return "UNLIMITED"
    if seconds < 1:
        raise _invalid("time limit", seconds, "at least one second")
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def parse_elapsed_seconds(text: str) -> float:
    """Read a duration Slurm printed, "[DD-[HH:]]MM:SS[.mmm]" (sacct(1), field TotalCPU; squeue(1), %M).

    Raises:
        SlurmOutputError: Another form.
    """
    match = _ELAPSED.fullmatch(text.strip())
    if not match:
        raise SlurmOutputError(f"not a duration as Slurm prints them: {text!r}")
    days, hours, minutes = (int(match.group(name) or 0) for name in ("days", "hours", "minutes"))
    return days * 86400 + hours * 3600 + minutes * 60 + float(match.group("seconds"))


def parse_memory_mib(value: str | int) -> int:
    """Read an amount of memory as sbatch(1) `--mem` does: a whole number and K, M (the default), G or T.

    sbatch takes the suffix in either case and with a trailing "B" or without, and rounds K up to whole MiB. A space
    before it and "iB" are as people write it, and mean the same.

    Args:
        value: "4096", "4096M", "4G", "4 GB", "4GiB", "1T", "512K", or MiB as an int.

    Returns:
        MiB. Zero is passed on: to `--mem` it means all memory of the node.

    Raises:
        InvalidQuantityError: Fractions, signs, other suffixes.
    """
    match = _MEMORY_REQUEST.fullmatch(_request_text(value, "amount of memory", MEMORY_FORMS))
    if not match:
        raise _invalid("amount of memory", value, MEMORY_FORMS)
    unit = (match.group("unit") or "M").upper()
    return -(-int(match.group("amount")) * _BYTES[unit] // _BYTES["M"])


def for_sbatch(name: str, value: object) -> object:
    """The value of an option without a field of its own, written as sbatch takes it where people write it otherwise."""
    if not isinstance(value, str):
        return value
    if name in ("mem-per-gpu", "tmp") and (match := _MEMORY_REQUEST.fullmatch(value.strip())):
        return f"{match['amount']}{match['unit'] or ''}"
    in_words = _seconds_in_words(value.strip()) if name == "time-min" else 0
    return format_time_limit(in_words) if in_words else value


def format_memory(mib: int) -> str:
    """MiB as sbatch takes them, "4096M".

    Raises:
        InvalidQuantityError: A negative amount.
    """
    if mib < 0:
        raise _invalid("amount of memory", mib, "zero or more MiB")
    return f"{mib}M"


def parse_memory_bytes(text: str) -> int | None:
    """Read an amount of memory sacct printed, in bytes; units are powers of 1024.

    "12345K", "1.5G", "0"; "" is None (not measured). Releases before 21.08 append "n" or "c" to ReqMem, for
    per node and per CPU (sacct(1) of 20.11, field ReqMem); both are accepted and left out.

    Raises:
        SlurmOutputError: Another form.
    """
    stripped = text.strip()
    if not stripped:
        return None
    match = _MEMORY_OUTPUT.fullmatch(stripped)
    if not match:
        raise SlurmOutputError(f"not an amount of memory as sacct prints it: {text!r}")
    return math.ceil(float(match.group("amount")) * _BYTES[match.group("unit")])


def parse_tres(text: str) -> Mapping[str, str]:
    """Read a list of trackable resources, "cpu=2,mem=4G,node=1,gres/gpu=1" (sacct(1), field AllocTRES).

    Returns:
        Name to value, both as printed; empty for an empty text.

    Raises:
        SlurmOutputError: A part without "=" or without a name.
    """
    parts = [part.partition("=") for part in text.strip().split(",") if part]
    if any(not name or not equals for name, equals, _ in parts):
        raise SlurmOutputError(f"not a list of trackable resources: {text!r}")
    return {name: value for name, _, value in parts}


def parse_timestamp(text: str) -> datetime | None:
    """Read a time as Slurm prints it, "2026-01-31T12:00:00"; the command ran with TZ=UTC (see `commands`).

    Returns:
        An aware time in UTC, or None for "Unknown", "None", "N/A" and "".

    Raises:
        SlurmOutputError: Another form.
    """
    stripped = text.strip()
    if stripped.upper() in _NO_TIME:
        return None
    try:
        return datetime.strptime(stripped, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError:
        raise SlurmOutputError(f"not a time as Slurm prints it: {text!r}") from None


def _limit_seconds(days: str | None, fields: list[int]) -> int:
    if days is not None:
        hours, minutes, seconds = [*fields, 0, 0][:3]
        return int(days) * 86400 + hours * 3600 + minutes * 60 + seconds
    if len(fields) == 3:
        return fields[0] * 3600 + fields[1] * 60 + fields[2]
    minutes, seconds = [*fields, 0][:2]
    return minutes * 60 + seconds


def _request_text(value: object, what: str, forms: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _invalid(what, value, forms)
    return value.strip() if isinstance(value, str) else str(value)


def _invalid(what: str, value: object, forms: str) -> InvalidQuantityError:
    return InvalidQuantityError(f"not a valid {what}: {as_written(value)}", hint=f"Allowed: {forms}.")
