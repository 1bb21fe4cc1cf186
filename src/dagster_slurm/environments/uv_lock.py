"""Which wheels of a `uv.lock` are installed on a target. Pure.

Sources: the lock files of uv 0.5 to 0.13 (`version = 1`), and PyPA's specifications of dependency specifiers, of binary
distributions and of platform tags. uv's documentation calls the format its own; what is not known here is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.markers import InvalidMarker, Marker
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from dagster_slurm.environments.target import Target
from dagster_slurm.errors import InterpreterNotFoundError, InvalidRequestError, WheelNotFoundError

_VERSION = 1
# Dependencies that exclude each other are told apart by names that uv makes: extra-5-tides-gpu, group-5-tides-dev.
_CHOICE = re.compile(r"extra\s*(==|!=)\s*(['\"])((?:extra|group|project)-\d+-[^'\"]*)\2")
_TRUE, _FALSE = "python_version >= '0'", "python_version < '0'"
_LOCAL_SOURCES = ("editable", "directory")

Package = Mapping[str, Any]


@dataclass(frozen=True)
class LockedWheel:
    """A wheel that the lock names.

    Args:
        project: The name of its project.
        filename: Its name, which tells what it is good for.
        url: Where it is; None if it lies on this machine.
        path: Where it lies, relative to the lock; None if it has to be fetched.
        sha256: Of its content.
        size_bytes: Of its content; 0 if the lock does not say.
    """

    project: str
    filename: str
    url: str | None
    path: str | None
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class LocalProject:
    """A project of this machine, whose wheel has to be built: the root, a member of its workspace, a path."""

    name: str
    directory: str


@dataclass(frozen=True)
class Selection:
    """What is installed."""

    wheels: tuple[LockedWheel, ...]
    projects: tuple[LocalProject, ...]


@dataclass(frozen=True)
class Choice:
    """What of a project is wanted: its name, extras and dependency groups."""

    project: str
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def select(lock: Mapping[str, Any], choice: Choice, target: Target) -> Selection:
    """Choose what is installed.

    Args:
        lock: The content of `uv.lock`.
        choice: What of the project is wanted.
        target: What it is for.

    Raises:
        InvalidRequestError: The lock is of another version, does not have the project, the extra or the group.
        InterpreterNotFoundError: The target's Python is not one that the lock is for.
        WheelNotFoundError: A package has no wheel that fits.
    """
    if lock.get("version") != _VERSION:
        raise InvalidRequestError(f"A uv.lock of version {lock.get('version')!r} is not known here")
    _check_python(lock, target)
    found = _Walk(lock, choice, target).packages()
    order = {tag: rank for rank, tag in enumerate(target.tags())}
    wheels, projects = [], []
    for package in sorted(found, key=lambda each: (each["name"], each.get("version", ""))):
        source = package.get("source", {})
        local = next((source[kind] for kind in _LOCAL_SOURCES if kind in source), None)
        if local is not None:
            projects.append(LocalProject(package["name"], local))
        elif "virtual" not in source:
            wheels.append(_best_wheel(package, order, target))
    return Selection(tuple(wheels), tuple(projects))


def locked_names(lock: Mapping[str, Any], choice: Choice) -> frozenset[str]:
    """The names of all that can be installed, on whatever target: no marker is looked at.

    Args:
        lock: The content of `uv.lock`.
        choice: What of the project is wanted; what the lock does not have of it counts for nothing.
    """
    by_name: dict[str, list[Package]] = {}
    for package in lock.get("package", []):
        by_name.setdefault(package["name"], []).append(package)
    root = canonicalize_name(choice.project)
    seen: set[tuple[str, str]] = set()
    queue: list[tuple[str, str]] = [(root, ""), *((root, extra) for extra in choice.extras)]
    for package in by_name.get(root, ()):
        queue += [each for group in choice.groups for each in _wanted(package.get("dev-dependencies", {}), group)]
    while queue:
        entry = name, extra = queue.pop()
        if entry not in seen:
            seen.add(entry)
            for package in by_name.get(name, ()):
                table = package.get("optional-dependencies", {}) if extra else {"": package.get("dependencies", [])}
                queue += _wanted(table, extra)
    return frozenset(name for name, _ in seen)


def _wanted(table: Mapping[str, Iterable[Package]], key: str) -> Iterator[tuple[str, str]]:
    for dependency in table.get(key, ()):
        for extra in ("", *dependency.get("extra", ())):
            yield dependency["name"], extra


def _check_python(lock: Mapping[str, Any], target: Target) -> None:
    wanted = lock.get("requires-python", "")
    if target.python and not SpecifierSet(wanted).contains(target.python.full_version, prereleases=True):
        raise InterpreterNotFoundError(
            f"The lock is for Python {wanted}, and {target.python.path} on the cluster is {target.python.full_version}",
            hint="Name another interpreter of the cluster with `python`, or lock for this one.",
        )


class _Walk:
    """From the project along its dependencies."""

    def __init__(self, lock: Mapping[str, Any], choice: Choice, target: Target) -> None:
        self._packages: Sequence[Package] = lock.get("package", [])
        self._choice = choice
        self._markers = target.markers()
        name = canonicalize_name(choice.project)
        chosen = [("extra", each) for each in choice.extras] + [("group", each) for each in choice.groups]
        self._chosen = {f"{kind}-{len(name)}-{name}-{each}" for kind, each in chosen}

    def packages(self) -> list[Package]:
        """What is reached, the project included."""
        root = self._root()
        seen: dict[int, set[str]] = {}
        queue: list[tuple[Package, tuple[str, ...]]] = [(root, self._choice.extras)]
        self._follow(self._of_the_groups(root), queue)
        while queue:
            package, extras = queue.pop()
            known = seen.get(id(package))
            new = set(extras) - (known or set())
            if known is None:
                self._follow(package.get("dependencies", []), queue)
            for extra in sorted(new):
                self._follow(_extra_of(package, extra, is_root=package is root), queue)
            seen[id(package)] = (known or set()) | new
        return [package for package in self._packages if id(package) in seen]

    def _root(self) -> Package:
        name = canonicalize_name(self._choice.project)
        local = (*_LOCAL_SOURCES, "virtual")
        for package in self._packages:
            if package["name"] == name and any(kind in package.get("source", {}) for kind in local):
                return package
        raise InvalidRequestError(
            f"The lock does not have the project {self._choice.project!r}", hint="`uv lock` brings it up to date."
        )

    def _of_the_groups(self, root: Package) -> Iterator[Package]:
        groups = root.get("dev-dependencies", {})
        for name in self._choice.groups:
            if name not in groups:
                raise _unknown("dependency group", name, groups)
            yield from groups[name]

    def _follow(self, dependencies: Iterable[Package], queue: list[tuple[Package, tuple[str, ...]]]) -> None:
        for dependency in dependencies:
            if self._holds(dependency.get("marker")):
                queue.append((self._named(dependency), tuple(dependency.get("extra", ()))))

    def _named(self, dependency: Package) -> Package:
        """The package that a dependency means; of several forks the one for this target."""
        wanted = {key: dependency[key] for key in ("name", "version", "source") if key in dependency}
        fitting = [package for package in self._packages if all(package.get(key) == wanted[key] for key in wanted)]
        if len(fitting) > 1:
            fitting = [each for each in fitting if any(map(self._holds, each.get("resolution-markers", [None])))]
        if not fitting:
            raise InvalidRequestError(
                f"The lock does not have {dependency['name']}, which it names", hint="`uv lock` makes it anew."
            )
        return fitting[0]

    def _holds(self, marker: str | None) -> bool:
        if not marker:
            return True
        try:
            return bool(Marker(_CHOICE.sub(self._chosen_or_not, marker)).evaluate({**self._markers, "extra": ""}))
        except InvalidMarker as error:
            raise InvalidRequestError(f"The lock has a marker that is not known here: {marker!r}") from error

    def _chosen_or_not(self, match: re.Match[str]) -> str:
        return _TRUE if (match[3] in self._chosen) == (match[1] == "==") else _FALSE


def _extra_of(package: Package, extra: str, *, is_root: bool) -> Iterable[Package]:
    extras = package.get("optional-dependencies", {})
    if extra not in extras and is_root:
        raise _unknown("extra", extra, extras)
    return extras.get(extra, ())  # type: ignore[no-any-return]


def _unknown(what: str, name: str, known: Collection[str]) -> InvalidRequestError:
    there = ", ".join(sorted(known)) or "none"
    return InvalidRequestError(
        f"The project has no {what} {name!r}", hint=f"It has: {there}. `uv lock` after a change."
    )


def _best_wheel(package: Package, order: Mapping[Tag, int], target: Target) -> LockedWheel:
    source = package.get("source", {})
    if "git" in source:
        raise WheelNotFoundError(
            f"{package['name']} comes from git, so that the lock has no wheel of it",
            hint="Build its wheel and add that as a path source, or set `build_on_remote`.",
        )
    ranked = [
        (rank, wheel) for wheel in package.get("wheels", ()) if (rank := _rank(_filename(wheel), order)) is not None
    ]
    if not ranked:
        names = [_filename(wheel) for wheel in package.get("wheels", ())]
        there = f"it has {len(names)}, such as {names[0]}" if names else "it has none at all, only sources"
        python = target.python.full_version if target.python else "?"
        what = f"{package['name']} {package.get('version', '')}"
        raise WheelNotFoundError(
            f"{what} has no wheel for {target.platform} and Python {python}: {there}",
            hint="Lock a version that has one, name another `python`, or set `build_on_remote`.",
        )
    _, wheel = min(ranked, key=lambda each: each[0])
    return LockedWheel(
        package["name"],
        _filename(wheel),
        wheel.get("url", source.get("url")),
        wheel.get("path", source.get("path")),
        _sha256(package, wheel),
        wheel.get("size", 0),
    )


def _rank(filename: str, order: Mapping[Tag, int]) -> int | None:
    try:
        _, _, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return None
    return min((order[tag] for tag in tags if tag in order), default=None)


def _filename(wheel: Package) -> str:
    named = wheel.get("filename") or wheel.get("url") or wheel.get("path") or ""
    return str(named).partition("#")[0].partition("?")[0].rpartition("/")[2].replace("%2B", "+")


def _sha256(package: Package, wheel: Package) -> str:
    kind, _, digest = str(wheel.get("hash", "")).partition(":")
    # It becomes the name of a file.
    if kind != "sha256" or not re.fullmatch(r"[0-9a-f]{1,64}", digest):
        raise InvalidRequestError(f"The lock has no SHA-256 of a wheel of {package['name']}", hint="`uv lock` adds it.")
    return digest
