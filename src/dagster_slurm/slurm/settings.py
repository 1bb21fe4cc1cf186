"""The fields of a request that have a type of their own: how each value is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from dagster_slurm.errors import InvalidQuantityError
from dagster_slurm.slurm import quantities
from dagster_slurm.slurm.options import canonical_option, checked_value

_SIGNAL = re.compile(r"(?:(?:B:)?(?P<name>[A-Za-z0-9+]+)@)?(?P<seconds>\d{1,5})", re.ASCII)
_MAX_SIGNAL_SECONDS = 65535  # sbatch(1), option --signal
_MAX_COUNT = 10**7
_MAX_HOURS = 10**6


class Unlimited:
    """The type of `UNLIMITED`."""

    def __repr__(self) -> str:
        return "UNLIMITED"


UNLIMITED: Final = Unlimited()
"""A time limit that was asked for as none, other than one that was not asked for."""


def parse_signal_before_timeout(value: object) -> str:
    """Bring a signal before the time limit to sbatch's `--signal` form (sbatch(1), option --signal).

    Args:
        value: Seconds before the limit (60, "60"), or with a signal: "USR1@60", "B:USR1@60". The signal goes
            to the batch script, which forwards it to the payload.

    Returns:
        "B:USR1@60"; the signal is USR1 unless named.

    Raises:
        InvalidQuantityError: Another form, or not between 1 and 65535 seconds.
    """
    match = None if isinstance(value, bool) else _SIGNAL.fullmatch(str(value).strip())
    if not match or not 1 <= int(match.group("seconds")) <= _MAX_SIGNAL_SECONDS:
        allowed = f'60, "USR1@60" or "B:USR1@60", with 1 to {_MAX_SIGNAL_SECONDS} seconds'
        raise _out_of_range("signal_before_timeout", value, allowed)
    name = (match.group("name") or "USR1").upper().removeprefix("SIG")
    return f"B:{name}@{int(match.group('seconds'))}"


def _time_limit(_key: str, value: object) -> object:
    if _is_unset(value):
        return None
    seconds = quantities.parse_time_limit_seconds(value)  # type: ignore[arg-type]
    return UNLIMITED if seconds is None else seconds


def _memory_mib(_key: str, value: object) -> object:
    return None if _is_unset(value) else quantities.parse_memory_mib(value)  # type: ignore[arg-type]


def _signal(_key: str, value: object) -> object:
    return None if _is_unset(value) else parse_signal_before_timeout(value)


def _name(key: str, value: object) -> object:
    return None if _is_unset(value) else checked_value(canonical_option(key), value)


def _max_queue_seconds(key: str, value: object) -> object:
    if _is_unset(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MAX_HOURS:
        raise _out_of_range(key, value, "a number of hours above 0")
    return max(1, round(value * 3600))


def _count(minimum: int) -> Callable[[str, object], object]:
    def check(key: str, value: object) -> object:
        if _is_unset(value):
            return None
        is_number = isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal())
        if isinstance(value, bool) or not is_number or not minimum <= int(str(value)) <= _MAX_COUNT:
            raise _out_of_range(key, value, f"a whole number of at least {minimum}")
        return int(str(value))

    return check


def _is_unset(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _out_of_range(key: str, value: object, allowed: str) -> InvalidQuantityError:
    return InvalidQuantityError(f"{key!r} cannot be {value!r}", hint=f"Allowed: {allowed}.")


SETTINGS: Mapping[str, Callable[[str, object], object]] = MappingProxyType(
    {
        "partition": _name,
        "account": _name,
        "qos": _name,
        "reservation": _name,
        "nodes": _count(1),
        "cpus-per-task": _count(1),
        "gpus-per-node": _count(0),
        "mem": _memory_mib,
        "mem-per-cpu": _memory_mib,
        "time": _time_limit,
        "signal-before-timeout": _signal,
        "max-queue-hours": _max_queue_seconds,
    }
)
"""The check of each such field, by its name with dashes: key as given and value to value, None for unset."""
