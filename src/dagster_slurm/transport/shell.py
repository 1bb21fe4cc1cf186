"""The one place where values meet the shell: quoting, paths as people write them, and this package's shell files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from dagster_slurm.errors import InvalidRequestError

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII)
_COMMENT = re.compile(r"(?m)^ *# .*\n")
# As they stand in our files: in one line, or up to the bracket at the beginning of one.
_FUNCTION = re.compile(r"(?ms)^(\w+)\(\) (?:{ [^\n]*|[{(]\n.*?^[})][^\n]*)\n")
_WORD = re.compile(r"\w+")


def is_absolute(path: str) -> bool:
    """Whether nobody has to be asked where a path leads."""
    return path.startswith("/") and _VARIABLE.search(path) is None


def variables_in(path: str) -> tuple[str, ...]:
    """The variables that are needed for `absolute`, in their order."""
    named = [found[1] or found[2] for found in _VARIABLE.finditer(path)]
    return tuple(dict.fromkeys([*([] if path.startswith(("/", "$")) else ["HOME"]), *named]))


def absolute(path: str, variables: Mapping[str, str]) -> str:
    """A path as one absolute path: `~`, variables, and what is relative, which is so to the home directory.

    Args:
        path: As a person writes it.
        variables: The values of those that `variables_in` names, and HOME.

    Raises:
        LookupError: A variable is not set.
        ValueError: It is empty, of several lines, or another user's home.
    """
    found = _VARIABLE.sub(lambda named: variables[named[1] or named[2]], path)
    if not found.strip() or not {"\n", "\0"}.isdisjoint(found) or (found[0] == "~" and found[1:2] not in ("", "/")):
        raise ValueError(f"{path!r} is not an absolute path, and cannot be made one")
    if found[0] == "~":
        found = variables["HOME"] + found[1:]
    if found[0] != "/":
        found = f"{variables['HOME']}/{found.removeprefix('./')}"
    return found.rstrip("/") or "/"


def quote(value: str) -> str:
    """Quote one value for a POSIX shell.

    Raises:
        InvalidRequestError: The value holds a NUL, which no argument can carry.
    """
    if "\0" in value:
        raise InvalidRequestError(f"A value for the shell holds a NUL character: {value!r}")
    return shlex.quote(value)


class Verb(str):
    """A shell function of ours as a script. A channel reads it once: from then on it is a name, and its arguments.

    Attributes:
        name: Of all that a channel may read, only it has this one.
        others: Verbs that are called by what it is given.
    """

    name: str
    others: tuple[Verb, ...] = ()


def with_arguments(script: str, args: Sequence[str]) -> str:
    """The script with `$1`, `$2` ... set to `args`; of a verb, the call alone."""
    if isinstance(script, Verb):
        return " ".join((f"dagster_slurm_{script.name}", *map(quote, args)))
    return "\n".join((" ".join(("set --", *map(quote, args))), script))


@cache
def shell_file(package: str, name: str) -> str:
    """The text of a shell file that lies in `package`."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


@cache
def verb(name: str, package: str = "dagster_slurm.transport.scripts") -> Verb:
    """A function of the shell files of `package` as a verb, with those that it calls, and without comments."""
    functions, needed = _functions(package), [name]
    for each in needed:
        needed += sorted(functions.keys() & set(_WORD.findall(functions[each])) - set(needed))
    found = Verb("".join(map(functions.__getitem__, needed)) + f'{name} "$@"\n')
    found.name = name
    return found


@cache
def _functions(package: str) -> Mapping[str, str]:
    found = {}
    for file in resources.files(package).iterdir():
        if file.name.endswith(".sh"):
            for function in _FUNCTION.finditer(_COMMENT.sub("", file.read_text(encoding="utf-8"))):
                found[function[1]] = function[0]
    return found
