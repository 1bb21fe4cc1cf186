"""Profiles: what a site says of its cluster, by name, from a TOML file or from a package's entry point.

Only text is read here; what it is made of is checked by `resources/profiles.py`, and Dagster is not needed.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.text import as_written, did_you_mean
from dagster_slurm.variables import PROFILE_VARIABLE, text_in

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_VARIABLE = "DAGSTER_SLURM_PROFILES"
"""The file of profiles, in place of the user's and the site's."""
GROUP = "dagster_slurm.profiles"
"""The group of entry points: each is a mapping, or a function that returns one."""
_SITE = Path("/etc/dagster-slurm/profiles.toml")
_PAGE = "See docs/profiles.md."


@dataclass(frozen=True)
class Profile:
    """What a site says.

    Args:
        name: Its name.
        origin: The file that it stands in, or the entry point.
        values: What it says, as it is written.
    """

    name: str
    origin: str
    values: Mapping[str, Any]

    def section(self, name: str) -> dict[str, Any]:
        """A part of it that has parts itself.

        Raises:
            ConfigurationError: It is something else.
        """
        found = self.values.get(name, {})
        if not isinstance(found, Mapping):
            raise self.fault(f"{name!r} is {as_written(found)}", f"Write it as a table, `[{self.name}.{name}]`.")
        return dict(found)

    def refuse_unknown(self, given: Mapping[str, Any], allowed: Mapping[str, str], where: str = "") -> None:
        """Refuse what is not known.

        Args:
            given: What is given.
            allowed: The names that are allowed, and for those that are known and not allowed what to do instead.
            where: The section, in front of the name.

        Raises:
            ConfigurationError: A name is not allowed.
        """
        for name in given:
            instead = allowed.get(name)
            if instead:
                raise self.fault(f"{where}{name} cannot stand in a profile", instead)
            if instead is None:
                names = [each for each, other in allowed.items() if not other]
                allow = f"{did_you_mean(name, names)}Allowed are {', '.join(sorted(names))}."
                raise self.fault(f"there is no {where}{name}", allow)

    def fault(self, what: str, hint: str) -> ConfigurationError:
        """The error for something that it says."""
        return ConfigurationError(f"In the profile {self.name!r} of {self.origin}, {what}", hint=f"{hint} {_PAGE}")


def profile_of(name: str) -> Profile:
    """The profile of a name: from the file of the variable, or else the user's, the site's, or an entry point.

    Raises:
        ConfigurationError: There is none, a file cannot be read, or others could write to it.
    """
    known: list[str] = []
    for origin, profiles in _sources():
        if name in profiles:
            return Profile(name, origin, _values(profiles[name], name, origin))
        known += profiles
    there = f"There are {', '.join(sorted(set(known)))}." if known else "There are none."
    looked = f"{there} Looked in {', '.join(map(str, _files()))}, and among the entry points of {GROUP}."
    raise ConfigurationError(f"There is no profile {name!r}", hint=f"{did_you_mean(name, known)}{looked} {_PAGE}")


def profile_in_use() -> Profile | None:
    """The profile that the environment variable names; None if it is not set.

    Raises:
        ConfigurationError: As `profile_of`.
    """
    name = text_in(PROFILE_VARIABLE)
    return None if name is None else profile_of(name)


def _files() -> list[Path]:
    named = text_in(FILE_VARIABLE)
    if named is not None:
        return [Path(named).expanduser()]
    own = Path(text_in("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return [own / "dagster-slurm" / "profiles.toml", _SITE]


def _sources() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where profiles are, in the order in which they count; an entry point is loaded when its turn comes."""
    for file in _files():
        if file.exists() or text_in(FILE_VARIABLE) is not None:
            yield str(file), read_file(file)
    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    yield f"the entry points of {GROUP}", {point.name: point for point in found}


def _values(found: object, name: str, origin: str) -> Mapping[str, Any]:
    values = found
    if isinstance(found, EntryPoint):
        values = found.load()
        values = values() if callable(values) else values
    if not isinstance(values, Mapping):
        raise ConfigurationError(
            f"The profile {name!r} of {origin} is {as_written(values)}", hint=f"It has to be a table. {_PAGE}"
        )
    return values


def read_file(file: Path) -> Mapping[str, Any]:
    """The profiles of a file, by their names.

    Raises:
        ConfigurationError: It cannot be read, or somebody else could write to it.
    """
    try:
        with file.open("rb") as opened:
            refuse_others(file, os.fstat(opened.fileno()))
            refuse_others(file.parent, file.resolve().parent.stat())
            return tomllib.load(opened)
    except OSError as error:
        raise ConfigurationError(
            f"The file of profiles {file} cannot be read: {error.strerror}", hint=f"Correct {FILE_VARIABLE}. {_PAGE}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The file of profiles {file} is no TOML: {error}", hint=_PAGE) from None


def refuse_others(path: Path, found: os.stat_result) -> None:
    """Refuse a file or a directory that somebody else than this user and root could change.

    A profile names commands that are run on this machine, and where passwords are sent.

    Raises:
        ConfigurationError: Somebody else could.
    """
    is_sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_uid not in (0, os.getuid()):
        what, hint = f"belongs to the user with the number {found.st_uid}", "Make a copy of your own."
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky:
        what, hint = f"can be written to by others (mode {found.st_mode & 0o7777:04o})", f"chmod go-w {path}"
    else:
        return
    raise ConfigurationError(
        f"The profiles in {path} are not read: it {what}",
        hint=f"A profile names commands that are run on this machine. {hint} {_PAGE}",
    )
