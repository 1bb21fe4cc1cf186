"""Environments of payloads with packages that the tests have themselves: pip takes 30 s of CPU for Ray, a copy one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import Requirement

from dagster_slurm.sandbox import Sandbox

_WHOLE = ".copied"


def copied_environment(sandbox: Sandbox, name: str, requirements: Sequence[str]) -> str:
    """What `Sandbox.create_environment` makes of these requirements; their packages are copied if they are all here."""
    try:
        found = dict(_distributions(requirements, {}))
    except metadata.PackageNotFoundError:
        return sandbox.create_environment(name, requirements)
    path = Path(sandbox.create_environment(name, []))
    packages = path / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    if not packages.exists():  # another Python than that of the tests
        return sandbox.create_environment(name, requirements)
    if not (path / _WHOLE).exists():
        for distribution in found.values():
            _copy(distribution, path, packages)
        subprocess.run(["chmod", "-R", "a+rX", str(path)], check=True)
        (path / _WHOLE).touch()
    return str(path)


def _distributions(
    requirements: Sequence[str], seen: dict[str, set[str]]
) -> Iterator[tuple[str, metadata.Distribution]]:
    """All that they need, as pip finds it, by name.

    Raises:
        importlib.metadata.PackageNotFoundError: Something of it is not in this environment.
    """
    for requirement in map(Requirement, requirements):
        distribution = metadata.distribution(requirement.name)
        extras = {"", *requirement.extras} - seen.setdefault(distribution.name, set())
        if not extras:
            continue
        seen[distribution.name] |= extras
        yield distribution.name, distribution
        needed = [each for each in distribution.requires or [] if _holds(Requirement(each), extras)]
        yield from _distributions(needed, seen)


def _holds(requirement: Requirement, extras: set[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def _copy(distribution: metadata.Distribution, environment: Path, packages: Path) -> None:
    """Its files with what Python has compiled of them, and its commands for the interpreter of the new environment."""
    for file in distribution.files or []:
        source, target = Path(str(distribution.locate_file(file))), Path(os.path.normpath(packages / file))
        if not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent == environment / "bin":
            text = source.read_bytes()
            target.write_bytes(
                text.replace(os.fsencode(sys.prefix), os.fsencode(environment)) if text[:2] == b"#!" else text
            )
            target.chmod(source.stat().st_mode)
            continue
        shutil.copy2(source, target)
        compiled, kept = Path(cache_from_source(str(source))), Path(cache_from_source(str(target)))
        if source.suffix == ".py" and compiled.exists():
            kept.parent.mkdir(exist_ok=True)
            shutil.copy2(compiled, kept)


def _copy_command(source: Path, target: Path, environment: Path) -> None:
    """A script's first line names its interpreter."""
    content = source.read_bytes()
    if content.startswith(b"#!"):
        content = content.replace(os.fsencode(sys.prefix), os.fsencode(environment))
    target.write_bytes(content)
    target.chmod(source.stat().st_mode)
