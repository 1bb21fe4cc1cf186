"""The one place where values meet the shell: quoting, and the shell files of this package."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cache
from importlib import resources

from dagster_slurm.errors import InvalidRequestError


def quote(value: str) -> str:
    """Quote one value for a POSIX shell.

    Raises:
        InvalidRequestError: The value holds a NUL, which no argument can carry.
    """
    if "\0" in value:
        raise InvalidRequestError(f"A value for the shell holds a NUL character: {value!r}")
    return shlex.quote(value)


def with_arguments(script: str, args: Sequence[str]) -> str:
    """The script with `$1`, `$2` ... set to `args`."""
    return "\n".join((" ".join(("set --", *map(quote, args))), script))


@cache
def shell_file(package: str, name: str) -> str:
    """The text of a shell file that lies in `package`."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
