"""Settings from environment variables; a blank value counts as unset."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

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


def words(name: str) -> list[str]:
    """The variable's words, quoted as for a shell; none if it is not set.

    Raises:
        ConfigurationError: A quote is not closed.
    """
    try:
        return shlex.split(text(name) or "")
    except ValueError as error:
        raise ConfigurationError(f"The environment variable {name} cannot be read: {error}") from None


def build(make: Callable[..., T], fields: Mapping[str, Any], variable_of: Callable[[str], str]) -> T:
    """Make a resource of those fields that are set.

    Args:
        make: The resource's class.
        fields: Its fields; None is left out.
        variable_of: The name of the variable that a field was read from.

    Raises:
        ConfigurationError: A value is not one the field takes.
    """
    try:
        return make(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        variable = variable_of(str(fault["loc"][0]))
        raise ConfigurationError(
            f"The environment variable {variable} is not usable: {fault['msg']}",
            hint="Correct it; docs/configuration.md lists the variables with their forms.",
        ) from None
