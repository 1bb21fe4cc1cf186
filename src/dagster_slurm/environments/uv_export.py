"""Which wheels a project's `uv.lock` has for a target: as uv exports it, in PyPA's format (`pylock.toml`).

uv's documentation calls the format of `uv.lock` its own: workspaces, groups, extras and conflicts are read by uv alone.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import uv
from packaging.pylock import (
    Package,
    PackageArchive,
    PackageDirectory,
    PackageVcs,
    PackageWheel,
    Pylock,
    PylockSelectError,
    PylockValidationError,
)
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from dagster_slurm.environments.sources import read_toml, toml
from dagster_slurm.environments.target import Target
from dagster_slurm.errors import (
    EnvironmentBuildError,
    InterpreterNotFoundError,
    InvalidRequestError,
    WheelNotFoundError,
    reason,
)

LOCK_NAME = "uv.lock"
_SOURCES = frozenset({"editable", "directory", "virtual", "path", "git", "url"})
# What decides about the same command in a shell of the user's: the lock is read as it is, whatever is set there.
_LEFT_OUT = frozenset({"UV_FROZEN", "UV_LOCKED", "UV_PROJECT", "UV_NO_DEFAULT_GROUPS", "UV_NO_GROUP", "UV_NO_DEV"})


@dataclass(frozen=True)
class LockedWheel:
    """A wheel that the lock names.

    Args:
        project: The name of its project.
        filename: Its name, which tells what it is good for.
        url: Where it is; None if it lies on this machine.
        path: Where it lies, relative to the project; None if it has to be fetched.
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


def lock_path(project: Path) -> Path:
    """The `uv.lock` of a project: its own, or that of the workspace whose member it is.

    Raises:
        InvalidRequestError: There is none.
    """
    for each in (project, *project.parents):
        if (each / LOCK_NAME).is_file():
            return each / LOCK_NAME
    raise InvalidRequestError(f"There is no {project / LOCK_NAME}", hint="`uv lock` makes it.")


def member_at(directory: Path, root: Path) -> Path:
    """The member of a workspace to which a directory belongs, as uv finds it; the root if it belongs to none."""
    members = read_toml(root / LOCK_NAME).get("manifest", {}).get("members", ())
    for each in (directory, *directory.parents):
        if each == root:
            break
        if (each / "pyproject.toml").is_file():
            name = str(read_toml(each / "pyproject.toml").get("project", {}).get("name", ""))
            return each if canonicalize_name(name) in members else root
    return root


def exported(project: Path, extras: Sequence[str], groups: Sequence[str]) -> Pylock:
    """What the lock has for a project, on whatever target; asked again when the lock or the manifest has changed.

    Raises:
        InvalidRequestError: There is no such extra or group, or the lock is not that of the project.
        EnvironmentBuildError: There is no uv that can read it.
    """
    path = lock_path(project)
    _refuse_stale(path, project)
    seen = tuple((found.st_mtime_ns, found.st_size) for found in (path.stat(), (project / "pyproject.toml").stat()))
    found = _exported(project, path, tuple(extras), tuple(groups), seen)
    for package in found.packages:
        if package.directory is not None:
            _refuse_stale(path, project / package.directory.path)
    return found


@lru_cache(maxsize=8)
def _exported(project: Path, lock: Path, extras: tuple[str, ...], groups: tuple[str, ...], seen: object) -> Pylock:
    del seen
    chosen = [f"--extra={each}" for each in extras] + [f"--group={each}" for each in groups]
    said = _uv_export(project, lock, ["--no-default-groups", *chosen])
    try:
        return Pylock.from_dict(toml(said, "What uv exports"))
    except PylockValidationError as error:
        raise InvalidRequestError(f"uv exports {lock} as what is not known here: {error}") from error


def _uv_export(project: Path, lock: Path, options: Sequence[str]) -> str:
    program = uv_program()
    # It needs no network, no interpreter, and no home to write to.
    argv = [program, "export", "--frozen", "--offline", "--no-cache", "--quiet", "--format", "pylock.toml", *options]
    environment = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    done = subprocess.run(argv, cwd=project, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout
    said = reason(done.stderr, done.returncode)
    if ("pylock.toml" in said and "--format" in said) or "equired uv version" in said:
        raise EnvironmentBuildError(
            f"{program} is too old to read {lock}: {said.splitlines()[0]}", hint="`pip install --upgrade uv`."
        )
    raise InvalidRequestError(f"uv cannot read {lock}: {said}", hint="`uv lock` brings it up to date.")


def uv_program() -> str:
    """The uv that was installed with this package.

    Raises:
        EnvironmentBuildError: It is not there.
    """
    try:
        return os.fspath(uv.find_uv_bin())
    except FileNotFoundError as error:
        raise EnvironmentBuildError("The program uv is not installed", hint="`pip install uv` brings it.") from error


def _refuse_stale(lock: Path, project: Path) -> None:
    """Refuse a lock that lacks what the project asks for: uv takes it as it is (`--frozen`)."""
    manifest = project / "pyproject.toml"
    # One at a path may be of before such files.
    missing = not_locked(read_toml(lock), read_toml(manifest)) if manifest.is_file() else []
    if missing:
        raise InvalidRequestError(
            f"{lock} is not up to date: it does not have {', '.join(missing)} of {manifest}",
            hint="`uv lock` brings it up to date.",
        )


def not_locked(lock: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    """Requirements that a project has in its manifest, and not in its lock. Pure.

    A lock that does not say what was asked for has all.
    """
    name = canonicalize_name(str(manifest.get("project", {}).get("name", "")))
    locked = next((each for each in lock.get("package", ()) if each.get("name") == name and "metadata" in each), None)
    if locked is None:
        return []
    project, metadata = manifest["project"], locked["metadata"]
    optional = project.get("optional-dependencies", {}).values()
    asked = [*project.get("dependencies", ()), *(each for every in optional for each in every)]
    found = _lacking(asked, metadata.get("requires-dist", ()))
    groups = {canonicalize_name(each): wanted for each, wanted in metadata.get("requires-dev", {}).items()}
    for group, wanted in manifest.get("dependency-groups", {}).items():
        found += _lacking([each for each in wanted if isinstance(each, str)], groups.get(canonicalize_name(group), ()))
    return found


def _lacking(asked: Sequence[str], locked: Sequence[Mapping[str, Any]]) -> list[str]:
    return [each for each in asked if not any(_is_locked(each, entry) for entry in locked)]


def _is_locked(asked: str, entry: Mapping[str, Any]) -> bool:
    try:
        requirement = Requirement(asked)
    except InvalidRequirement:
        # uv says what is wrong with it.
        return True
    is_named = canonicalize_name(requirement.name) == entry.get("name")
    return is_named and (
        not _SOURCES.isdisjoint(entry) or requirement.specifier == SpecifierSet(entry.get("specifier", ""))
    )


def locked_names(pylock: Pylock) -> frozenset[str]:
    """The names of all that can be installed, on whatever target: no marker is looked at."""
    return frozenset(package.name for package in pylock.packages)


def select(pylock: Pylock, target: Target) -> Selection:
    """Choose what is installed. Pure.

    Raises:
        InterpreterNotFoundError: The target's Python is not one that the lock is for.
        WheelNotFoundError: A package has no wheel that fits.
        InvalidRequestError: The lock has no SHA-256 of a wheel.
    """
    _check_python(pylock, target)
    wheels, projects = [], []
    for package in pylock.packages:
        for source in _sources(pylock, package, target):
            if isinstance(source, PackageDirectory):
                projects.append(LocalProject(package.name, source.path))
            else:
                wheels.append(_wheel(package, source, target))
    return Selection(tuple(wheels), tuple(projects))


def _sources(pylock: Pylock, package: Package, target: Target) -> list[object]:
    """Where one package comes from on the target; nothing if it is not for that."""
    alone = replace(pylock, packages=[package])
    try:
        found = alone.select(environment=target.markers(), tags=target.tags())  # type: ignore[arg-type]
        return [source for _, source in found]
    except PylockSelectError as error:
        raise _without_wheel(package, target) from error


def _check_python(pylock: Pylock, target: Target) -> None:
    wanted = pylock.requires_python
    if wanted and target.python and not wanted.contains(target.python.full_version, prereleases=True):
        raise InterpreterNotFoundError(
            f"The lock is for Python {wanted}, and {target.python.path} on the cluster is {target.python.full_version}",
            hint="Name another interpreter of the cluster with `python`, or lock for this one.",
        )


def _wheel(package: Package, source: object, target: Target) -> LockedWheel:
    if isinstance(source, PackageVcs):
        raise WheelNotFoundError(
            f"{package.name} comes from {source.type}, so that the lock has no wheel of it",
            hint="Build its wheel and add that as a path source, or set `build_on_remote`.",
        )
    if isinstance(source, PackageWheel):
        return _locked(package, source, source.filename)
    named = (source.path or source.url or "") if isinstance(source, PackageArchive) else ""
    filename = named.partition("#")[0].partition("?")[0].rpartition("/")[2].replace("%2B", "+")
    if isinstance(source, PackageArchive) and _fits(filename, target):
        return _locked(package, source, filename)
    raise _without_wheel(package, target)


def _without_wheel(package: Package, target: Target) -> WheelNotFoundError:
    names = [wheel.filename for wheel in package.wheels or ()]
    there = f"it has {len(names)}, such as {names[0]}" if names else "it has none at all, only sources"
    python = target.python.full_version if target.python else "?"
    return WheelNotFoundError(
        f"{package.name} {package.version or ''} has no wheel for {target.platform} and Python {python}: {there}",
        hint="Lock a version that has one, name another `python`, or set `build_on_remote`.",
    )


def _fits(filename: str, target: Target) -> bool:
    try:
        return not parse_wheel_filename(filename)[3].isdisjoint(target.tags())
    except InvalidWheelFilename:
        return False


def _locked(package: Package, wheel: PackageWheel | PackageArchive, filename: str) -> LockedWheel:
    url, path = wheel.url, wheel.path
    if url and url.startswith("file://"):
        # Of an index that is a directory.
        path, url = _path_in(url), None
    return LockedWheel(package.name, filename, url, path, _sha256(package.name, wheel.hashes), wheel.size or 0)


def _path_in(url: str) -> str:
    try:
        return unquote(urlsplit(url).path)
    except ValueError as error:
        raise InvalidRequestError(
            f"The lock names {url!r}, which is no address: {error}", hint="Lock it anew."
        ) from error


def _sha256(name: str, hashes: Mapping[str, str]) -> str:
    digest = str(hashes.get("sha256"))
    # It becomes the name of a file.
    if not re.fullmatch(r"[0-9a-f]{1,64}", digest):
        raise InvalidRequestError(f"The lock has no SHA-256 of a wheel of {name}", hint="`uv lock` adds it.")
    return digest
