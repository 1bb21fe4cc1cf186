"""Settings from environment variables; a blank value counts as unset."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from dagster_slurm.errors import ConfigurationError

T = TypeVar("T")

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


def text(name: str) -> str | None:
    """The variable's value without surrounding white space, or None."""
    return os.environ.get(name, "").strip() or None


def required(name: str, what: str) -> str:
    """The variable's value.

    Raises:
        ConfigurationError: It is not set.
    """
    value = text(name)
    if value is None:
        raise ConfigurationError(f"The environment variable {name} is not set", hint=f"Set it to {what}.")
    return value


def number(name: str, kind: Callable[[str], T]) -> T | None:
    """The variable's value as `int` or `float`, or None.

    Raises:
        ConfigurationError: It is not a number.
    """
    value = text(name)
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError:
        raise ConfigurationError(
            f"The environment variable {name} is {value!r}", hint="It has to be a number."
        ) from None


def flag(name: str) -> bool | None:
    """The variable's value as yes or no, or None.

    Raises:
        ConfigurationError: It is neither.
    """
    value = text(name)
    if value is None:
        return None
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise ConfigurationError(
        f"The environment variable {name} is {value!r}",
        hint=f"Allowed are {', '.join((*_TRUE, *_FALSE))}.",
    )
