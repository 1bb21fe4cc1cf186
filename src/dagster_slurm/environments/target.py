"""What an environment is made for: the platform and the Python of the cluster. Pure.

Platforms have conda's names (`linux-64`), as in pixi's manifests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from packaging.tags import Tag, compatible_tags, cpython_tags

from dagster_slurm.errors import InvalidRequestError

# Machine names (uname(1)) by conda's names of platforms.
MACHINES: Mapping[str, str] = {
    "linux-64": "x86_64",
    "linux-aarch64": "aarch64",
    "linux-ppc64le": "ppc64le",
    "linux-s390x": "s390x",
    "linux-riscv64": "riscv64",
}
_PLATFORMS = {machine: platform for platform, machine in MACHINES.items()}
# The oldest glibc that there are wheels for: manylinux1 (PEP 513) for x86, manylinux2014 (PEP 599) for the others.
_OLDEST_GLIBC = {"x86_64": 5}
_OLDEST_GLIBC_ELSEWHERE = 17
# PEP 600: names of before, by the minor version of glibc 2.
_LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
# What is assumed of a platform that nobody has looked at: glibc of RHEL 8.
_GLIBC_ASSUMED = (2, 28)
_MOST = 10_000


def check_platform(name: str) -> str:
    """The name, if it is a platform's.

    Raises:
        InvalidRequestError: It is not.
    """
    if name not in MACHINES:
        raise InvalidRequestError(f"{name!r} is not a platform", hint=f"Platforms are: {', '.join(MACHINES)}.")
    return name


@dataclass(frozen=True)
class Python:
    """An interpreter on the cluster.

    Args:
        path: Where it is, with links resolved as far as it does itself.
        version: `3.11.2`.
        glibc: The version of its C library; None if that is not glibc.
    """

    path: str
    version: tuple[int, int, int]
    glibc: tuple[int, int] | None

    @property
    def full_version(self) -> str:
        """As in `python_full_version` of a marker."""
        return ".".join(map(str, self.version))


@dataclass(frozen=True)
class Program:
    """A program on the login node's PATH.

    Args:
        path: Where it is.
        version: What it says of itself: the first numbers in it.
    """

    path: str
    version: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """What an environment is made for.

    Args:
        platform: Conda's name of it.
        python: The interpreter found on the cluster; None if none was asked for.
        login_platform: The login node's; None if that is not known.
        glibc: The version of the login node's C library; None if that is not glibc, or not known.
        program: The program that was asked for; None if none was, or it is not there.
    """

    platform: str
    python: Python | None = None
    login_platform: str | None = None
    glibc: tuple[int, int] | None = None
    program: Program | None = None

    @property
    def machine(self) -> str:
        """As uname(1) names it."""
        return MACHINES[self.platform]

    def key_inputs(self) -> dict[str, str]:
        """What of it makes an environment another one."""
        if self.python is None:
            return {"platform": self.platform}
        return {"platform": self.platform, "python": self.python.full_version, "interpreter": self.python.path}

    def markers(self) -> dict[str, str]:
        """The values of environment markers there (dependency specifiers, PyPA)."""
        python = self._own_python()
        return {
            "implementation_name": "cpython",
            "implementation_version": python.full_version,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": python.full_version,
            "python_version": ".".join(map(str, python.version[:2])),
            "sys_platform": "linux",
        }

    def tags(self) -> list[Tag]:
        """The tags of wheels that can be installed there, the best first."""
        python = self._own_python()
        version, platforms = python.version[:2], platform_tags(self.machine, python.glibc)
        interpreter = f"cp{version[0]}{version[1]}"
        return [
            *cpython_tags(version, [interpreter], platforms),
            *compatible_tags(version, interpreter, platforms),
        ]

    def _own_python(self) -> Python:
        if self.python is None:
            raise InvalidRequestError("An environment of wheels needs an interpreter on the cluster")
        return self.python


def platform_tags(machine: str, glibc: tuple[int, int] | None) -> list[str]:
    """Platform tags of wheels for Linux, the best first (PEP 600).

    Args:
        machine: As uname(1) names it.
        glibc: The version there; None for none, and then only tags of plain Linux.
    """
    tags = []
    if glibc is not None and glibc[0] == 2:
        for minor in range(glibc[1], _OLDEST_GLIBC.get(machine, _OLDEST_GLIBC_ELSEWHERE) - 1, -1):
            tags.append(f"manylinux_2_{minor}_{machine}")
            if minor in _LEGACY:
                tags.append(f"{_LEGACY[minor]}_{machine}")
    return [*tags, f"linux_{machine}"]


def target_of(facts: str, *, platform: str | None) -> Target:
    """The target, from what `environment_target` prints.

    Args:
        facts: The machine, and in lines of their own `glibc VERSION`, `program PATH VERSION` and what a Python says, in
            JSON.
        platform: The platform that was asked for, where it is not the login node's.

    Raises:
        InvalidRequestError: The machine is of a kind that is not known here.
    """
    machine, *found = facts.splitlines()
    if platform is None and machine not in _PLATFORMS:
        raise InvalidRequestError(
            f"The login node is a {machine!r}", hint=f"Set the platform, one of: {', '.join(MACHINES)}."
        )
    login = _PLATFORMS.get(machine)
    chosen = login or "" if platform is None else check_platform(platform)
    words = {line.partition(" ")[0]: line.partition(" ")[2] for line in found if not line.startswith("{")}
    library = version_of(words.get("glibc", ""))[:2]
    path, _, said = words.get("program", "").rpartition(" ")
    return Target(
        chosen,
        next((_python(line, is_own=chosen == login) for line in found if line.startswith("{")), None),
        login,
        (library[0], library[1]) if len(library) == 2 else None,
        Program(path, version_of(said)) if path else None,
    )


def version_of(text: str) -> tuple[int, ...]:
    """The first numbers with dots between them in a text; empty if it has none."""
    found = re.search(r"(?<!\d)\d{1,9}(?:\.\d{1,9})*(?!\d)", text, re.ASCII)
    return tuple(map(int, found[0].split("."))) if found else ()


def _python(line: str, *, is_own: bool) -> Python:
    said = json.loads(line)
    glibc = _numbers(said["glibc"], 2) if said["glibc"] else None
    path, version = said["path"], _numbers(said["version"], 3)
    if not isinstance(path, str):
        raise ValueError(f"not the path of a Python: {path!r}"[:200])
    own = None if glibc is None else (glibc[0], glibc[1])
    return Python(path, (version[0], version[1], version[2]), own if is_own else _GLIBC_ASSUMED)


def _numbers(said: object, count: int) -> list[int]:
    """The numbers of a version; with greater ones, a list of tags would have no end."""
    numbers = said if isinstance(said, list) else []
    if len(numbers) != count or not all(type(each) is int and 0 <= each < _MOST for each in numbers):
        raise ValueError(f"not the {count} numbers of a version: {said!r}"[:200])
    return numbers
