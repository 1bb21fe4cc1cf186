"""What a `pixi.lock` names for one environment and platform. Pure.

Source: the lock files of pixi 0.20 to 0.68 (versions 4 to 7), as rattler_lock writes them, https://github.com/conda/rattler.
Versions 4 and 5 say the `kind` of a package, 6 names it by its kind, 7 has a list of platforms and a kind of its own
for conda packages that are built from source. What is not known here is refused.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from dagster_slurm.environments.pixi_command import MANIFESTS, injecting, matches
from dagster_slurm.environments.sources import read_toml
from dagster_slurm.errors import InvalidRequestError

# LibYAML's reader, where PyYAML has it, takes 0.1 s for the lock of 200 packages, and the one in Python 1 s.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
KNOWN_VERSIONS = (4, 5, 6, 7)
_CONDA_FILES = (".conda", ".tar.bz2")
_CONDA_SOURCE = re.compile(r"(?P<name>[^\[\s]+)\[[^\]]*\] @ (?P<location>.+)")
_PLAIN = re.compile(r"(?!\.{1,2}$)[^/\0\n]+")
_ANEW = "`pixi lock` makes it anew."
_GLIBC = re.compile(r"__glibc\s+>=\s*(\d+)\.(\d+)")

Entry = Mapping[str, Any]


class Kind(Enum):
    """What a locked package is."""

    CONDA = "a conda package"
    CONDA_SOURCE = "a conda package that is built from source"
    WHEEL = "a wheel"
    PROJECT = "a project of this machine"
    SDIST = "a source distribution"


@dataclass(frozen=True)
class LockedPackage:
    """A package that the lock names.

    Args:
        kind: What it is.
        name: Its name.
        version: Its version; empty if the lock does not say.
        location: Where it is: an address, or a path, which is relative to the lock.
        sha256: Of its file, in hexadecimal; empty if the lock does not say.
        size_bytes: Of its file; 0 if the lock does not say.
        glibc: The oldest version of the C library that it runs with; None if it does not say.
        md5: Of its file, where the lock has no other checksum.
        file_name: Of its file, where its location ends otherwise.
        directory: The directory of the channel in which it belongs, where its location does not tell.
    """

    kind: Kind
    name: str
    version: str
    location: str
    sha256: str = ""
    size_bytes: int = 0
    glibc: tuple[int, int] | None = None
    md5: str = ""
    file_name: str = ""
    directory: str = ""

    @property
    def filename(self) -> str:
        """The name of its file."""
        return self.file_name or unquote(urlsplit(self.location).path.rstrip("/").rpartition("/")[2])

    @property
    def subdir(self) -> str:
        """The directory of the channel in which a conda package lies: a platform's name, or `noarch`."""
        return self.directory or urlsplit(self.location).path.rstrip("/").rpartition("/")[0].rpartition("/")[2]

    @property
    def checksum(self) -> str:
        """Of its file: the SHA-256 in hexadecimal, or `md5:` and that; empty if the lock has none."""
        return self.sha256 or (f"md5:{self.md5}" if self.md5 else "")

    @property
    def member(self) -> str:
        """Where a conda package or a wheel lies in a pack."""
        return f"channel/{self.subdir}/{self.filename}" if self.kind is Kind.CONDA else f"pypi/{self.filename}"

    @property
    def is_file(self) -> bool:
        """Whether it is a file that is packed as it is."""
        return self.kind in (Kind.CONDA, Kind.WHEEL)

    @property
    def local_path(self) -> str | None:
        """Its path on this machine, which is relative to the lock; None for what is fetched."""
        parts = urlsplit(self.location)
        if parts.scheme == "file":
            return unquote(parts.path)
        return None if "://" in self.location else self.location

    @property
    def what(self) -> str:
        """How it is called in a message."""
        return f"{self.name} {self.version}".strip()


def locked_packages(
    text: str, environment: str, platform: str, *, name: str = "pixi.lock"
) -> tuple[LockedPackage, ...]:
    """What is installed, in the lock's order.

    Args:
        text: The content of `pixi.lock`.
        environment: The name of the environment.
        platform: Conda's name of the platform.
        name: How errors call the lock.

    Raises:
        InvalidRequestError: It cannot be read, is of a version that is not known here, or has no such environment or
            platform.
    """
    try:
        return _locked(text, environment, platform)
    except _UnreadableError as error:
        problem, hint = error.args
        raise InvalidRequestError(f"{name} {problem}", hint=hint) from None


class _UnreadableError(Exception):
    """What is the matter with a lock, and what to do."""


def _locked(text: str, environment: str, platform: str) -> tuple[LockedPackage, ...]:
    lock = _parsed(text)
    environments = _mapping(lock.get("environments"))
    if environment not in environments:
        there = ", ".join(map(str, environments)) or "none"
        raise _UnreadableError(
            f"has no environment {environment!r}", f"It has: {there}. `pixi lock` after a change of the manifest."
        )
    by_platform = _mapping(_mapping(environments[environment]).get("packages"))
    chosen = _platform_name(lock, by_platform, platform, environment)
    described = {_selector(entry): entry for entry in _sequence(lock.get("packages"))}
    found = tuple(_package(selected, described) for selected in _sequence(by_platform[chosen]))
    for each in found:
        _refuse_unreadable(each.location)
        # They become paths: in the packer's cache, and in the pack.
        if each.is_file and not (_PLAIN.fullmatch(each.filename) and _PLAIN.fullmatch(each.subdir or "-")):
            raise _UnreadableError(f"names a package that no file can have: {each.location!r}", _ANEW)
    return found


def _refuse_unreadable(location: str) -> None:
    try:
        urlsplit(location)
    except ValueError as error:
        # Such as a host in brackets that is no address of IPv6.
        raise _UnreadableError(f"names an address that cannot be read, {location!r}: {error}", _ANEW) from error


def _parsed(text: str) -> Entry:
    try:
        lock = yaml.load(text, Loader=_Loader)  # noqa: S506 - both are safe loaders
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
        raise _UnreadableError(f"cannot be read: {problem}{where}", _ANEW) from error
    if not isinstance(lock, Mapping) or "version" not in lock:
        raise _UnreadableError("has no version", _ANEW)
    version = lock["version"]
    if version not in KNOWN_VERSIONS:
        raise _UnreadableError(
            f"is of version {version!r}, and {KNOWN_VERSIONS[0]} to {KNOWN_VERSIONS[-1]} are known here",
            "A newer dagster-slurm may know it; for an older lock, `pixi lock` of a newer pixi makes it anew.",
        )
    return lock


def lock_version(text: str) -> int:
    """The version of a lock, for what has to be installed to pack it; 0 if it says none."""
    found = re.search(r"^version:\s*(\d+)\s*$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _platform_name(lock: Entry, there: Entry, platform: str, environment: str) -> str:
    """The name under which the lock has a platform: since version 7 it may have one of its own."""
    if platform in there:
        return platform
    subdirs = {each.get("name"): each.get("subdir") for each in map(_mapping, _sequence(lock.get("platforms", [])))}
    fitting = [name for name in there if subdirs.get(name) == platform]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise _UnreadableError(
            f"has several platforms for {platform} in {environment!r}: {', '.join(fitting)}",
            "Choose an environment that has one of them.",
        )
    raise _UnreadableError(
        f"has no packages of {environment!r} for {platform}",
        f"It has them for: {', '.join(map(str, there)) or 'nothing'}. Add {platform} to `platforms` of the manifest, "
        "and run `pixi lock`.",
    )


def _selector(entry: Any) -> tuple[str, str]:
    """By what an environment names a package: its kind and its location."""
    entry = _mapping(entry)
    for kind in ("conda", "pypi", "conda_source"):
        if kind in entry:
            return kind, str(entry[kind])
    # Versions 4 and 5, in the list of packages.
    if entry.get("kind") in ("conda", "pypi"):
        return str(entry["kind"]), str(entry.get("url") or entry.get("path") or "")
    raise _UnreadableError(
        f"has a package of a kind that is not known here: {', '.join(map(str, entry)) or 'nothing'}",
        "A newer dagster-slurm may know it.",
    )


def _package(selected: Any, described: Mapping[tuple[str, str], Any]) -> LockedPackage:
    kind, location = _selector(selected)
    entry = _mapping(described.get((kind, location)))
    if kind == "conda_source":
        match = _CONDA_SOURCE.fullmatch(location)
        name, where = (match["name"], match["location"]) if match else ("", location)
        return LockedPackage(Kind.CONDA_SOURCE, name, _text(entry, "version"), where)
    if kind == "conda":
        return _conda(location, entry)
    return _pypi(location.removeprefix("direct+"), entry)


def _conda(location: str, entry: Entry) -> LockedPackage:
    stem = location
    for suffix in _CONDA_FILES:
        if location.endswith(suffix):
            stem = location.removesuffix(suffix)
            break
    else:
        return LockedPackage(Kind.CONDA_SOURCE, _text(entry, "name"), _text(entry, "version"), location)
    # NAME-VERSION-BUILD: neither the version nor the build has a hyphen in it.
    named = [*reversed(unquote(stem.rpartition("/")[2]).rsplit("-", 2)), "", ""]
    return LockedPackage(
        Kind.CONDA,
        _text(entry, "name") or named[2],
        _text(entry, "version") or named[1],
        location,
        _text(entry, "sha256"),
        _number(entry.get("size")),
        max(_glibc_of(entry), default=None),
        _text(entry, "md5"),
        _text(entry, "file_name"),
        _text(entry, "subdir"),
    )


def _pypi(location: str, entry: Entry) -> LockedPackage:
    bare = location.partition("#")[0].partition("?")[0]
    version = _text(entry, "version")
    if bare.endswith(".whl"):
        package = LockedPackage(Kind.WHEEL, _text(entry, "name"), version, bare, _text(entry, "sha256"))
        return replace(package, glibc=_glibc_of_wheel(package.filename))
    is_local = "://" not in location
    is_archive = bare.endswith((".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz"))
    kind = Kind.PROJECT if is_local and not is_archive else Kind.SDIST
    return LockedPackage(kind, _text(entry, "name"), version, location, _text(entry, "sha256"))


def _glibc_of(entry: Entry) -> Iterator[tuple[int, int]]:
    for each in (*_sequence(entry.get("depends", [])), *_sequence(entry.get("constrains", []))):
        if match := _GLIBC.match(str(each)):
            yield int(match[1]), int(match[2])


def _glibc_of_wheel(filename: str) -> tuple[int, int] | None:
    """The oldest C library that a wheel runs with (PEP 600; the names of before it are at most glibc 2.17's)."""
    try:
        tags = parse_wheel_filename(filename)[3]
    except InvalidWheelFilename:
        return None
    found = [re.match(r"manylinux_(\d+)_(\d+)_", tag.platform) for tag in tags]
    versions = [(int(match[1]), int(match[2])) for match in found if match]
    return min(versions) if versions and all(found) else None


def _mapping(value: Any) -> Entry:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _text(entry: Entry, key: str) -> str:
    value = entry.get(key)
    return "" if value is None else str(value)


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


_TASKS = ("pack-only", "pack")


@dataclass(frozen=True)
class Task:
    """What a project packs itself with.

    Args:
        name: Of the task.
        tables: All tasks of the manifest: what one runs may be another.
        commands: The words of its own command and of those that it depends on, each with the directory it runs in.
    """

    name: str
    tables: Mapping[str, Any]
    commands: tuple[tuple[Path, tuple[str, ...]], ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The command that runs it."""
        return ("pixi", "run", "--frozen", self.name)

    def injected(self) -> dict[str, Path]:
        """The files that it injects, as far as they are there: a task may build them first."""
        found: dict[str, Path] = {}
        for directory, words in self.commands:
            for number in injecting(words):
                pattern = words[number].partition("=")[2] if words[number].startswith("-") else words[number]
                for each in matches(directory, pattern):
                    found[os.fspath(directory / each)] = directory / each
        return found


def of_task(project: Path) -> Task | None:
    """The project's own task for packing, `pack-only` or else `pack`; None if it has neither.

    Raises:
        InvalidRequestError: The manifest cannot be read.
    """
    tables = dict(_tasks(project))
    name = next((each for each in _TASKS if each in tables), None)
    return None if name is None else Task(name, tables, tuple(_commands(project, name, tables, set())))


def _commands(
    project: Path, name: str, tables: Mapping[str, Any], seen: set[str]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    if name in seen or name not in tables:
        return
    seen.add(name)
    task = tables[name]
    table = task if isinstance(task, dict) else {"cmd": task}
    needed: Any = table.get("depends-on") or table.get("depends_on") or []
    for each in [needed] if isinstance(needed, str) else needed:
        yield from _commands(project, str(each.get("task", "") if isinstance(each, dict) else each), tables, seen)
    command = table.get("cmd", "")
    try:
        words = tuple(map(str, command)) if isinstance(command, list) else tuple(shlex.split(str(command)))
    except ValueError:
        # Bash says what is wrong with it, when it is run.
        words = ()
    yield project / str(table.get("cwd", ".")), words


def _tasks(project: Path) -> Iterator[tuple[str, Any]]:
    for name in MANIFESTS:
        path = project / name
        if not path.is_file():
            continue
        manifest: Any = read_toml(path)
        if name == "pyproject.toml":
            manifest = manifest.get("tool", {}).get("pixi", {})
        for table in (manifest, *manifest.get("target", {}).values(), *manifest.get("feature", {}).values()):
            yield from table.get("tasks", {}).items()
