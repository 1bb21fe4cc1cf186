"""The command that packs a pixi environment: which it is, what it injects, and what its failures mean.

Source of the options and texts: pixi-pack 0.7.10, https://pixi.prefix.dev/latest/deployment/pixi_pack/
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dagster_slurm.environments import local_store
from dagster_slurm.environments.recipe import last_lines
from dagster_slurm.errors import (
    DagsterSlurmError,
    EnvironmentBuildError,
    InvalidRequestError,
    reason,
)
from dagster_slurm.transport.shell import quote

if sys.version_info >= (3, 11):
    pass
else:
    pass

PACKER = "pixi-pack"
MANIFESTS = ("pixi.toml", "pyproject.toml")
_CHOICE = ("--environment", "{environment}", "--platform", "{platform}")
DEFAULT = (
    *(PACKER, *_CHOICE, "--use-cache", "{cache}"),
    *("--create-executable", "--output-file", "{output}", "{manifest}"),
)
"""The command where nobody names another one: it brings the program that unpacks the pack."""
_PLACEHOLDER = re.compile(r"(\{(?:output|platform|environment|manifest|cache)\})")
_PACKAGES = (".conda", ".tar.bz2", ".whl")
# `https://user:token@host`, and the tokens of anaconda.org's channels.
_SECRETS = ((re.compile(r"://[^/@\s]+@"), "://***@"), (re.compile(r"/t/[^/\s]+/"), "/t/***/"))
_CREATED = re.compile(r"Created pack(?: directory)? at (.+?)(?: with size .*)?\.?\s*$", re.MULTILINE)


def with_wheels(command: Sequence[str], wheels: Sequence[str]) -> tuple[str, ...]:
    """The default command, with wheels of projects that the lock names and that the packer would refuse."""
    if not wheels:
        return tuple(command)
    # What follows `--inject` is taken for packages up to the next option.
    return (*command[:-3], "--ignore-pypi-non-wheel", "--inject", *wheels, *command[-3:])


def for_login_node(command: Sequence[str], wheels: Sequence[str]) -> tuple[str, ...]:
    """A command as it is run there: the default one makes a directory, which nothing has to put into base64."""
    if tuple(command) != DEFAULT:
        return tuple(command)
    left_out = ("--use-cache", "{cache}")
    replaced = (
        "--directory-only" if word == "--create-executable" else word for word in DEFAULT if word not in left_out
    )
    return with_wheels(tuple(replaced), wheels)


def filled(command: Iterable[str], values: Mapping[str, str]) -> list[str]:
    """The command, with its placeholders filled in; those without a value stay."""
    return [_PLACEHOLDER.sub(lambda match: values.get(match[0], match[0]), argument) for argument in command]


def for_shell(argument: str, values: Mapping[str, str]) -> str:
    """An argument as a word of a shell, with shell for its placeholders."""
    pieces = [piece for piece in _PLACEHOLDER.split(argument) if piece]
    return "".join(values.get(piece) or quote(piece) for piece in pieces) or quote("")


def injecting(command: Sequence[str]) -> list[int]:
    """Where in a command stands what it injects: behind `--inject` or `-i`, which take any number of packages. Pure."""
    places: list[int] = []
    first, more = False, False
    for number, argument in enumerate(command):
        option, separator, _ = argument.partition("=")
        if option in ("--inject", "-i"):
            places += [number] if separator else []
            first, more = not separator, not separator
        elif argument.startswith("-"):
            first, more = False, False
        elif first or (more and (argument.endswith(_PACKAGES) or glob.has_magic(argument))):
            places.append(number)
            first = False
        else:
            more = False
    return places


@dataclass(frozen=True)
class Injection:
    """A command whose patterns are files.

    Args:
        argv: The command.
        files: What it injects: how it names a file, and the file.
    """

    argv: tuple[str, ...]
    files: Mapping[str, Path]


def expanded(command: Sequence[str], project: Path) -> Injection:
    """Replace the patterns behind `--inject` with the files that match them, as a shell would.

    Raises:
        InvalidRequestError: None does, a file is missing, or is of a kind that the packer leaves out without a word.
    """
    places = frozenset(injecting(command))
    argv: list[str] = []
    files: dict[str, Path] = {}
    for number, argument in enumerate(command):
        if number not in places:
            argv.append(argument)
            continue
        option, separator, value = argument.partition("=")
        name = value if separator and option in ("--inject", "-i") else argument
        found = matching(project, name, "--inject") if glob.has_magic(name) else [name]
        for each in found:
            path = project / each
            if not path.is_file():
                raise InvalidRequestError(f"There is no {path} to inject", hint="Build it, or name another.")
            if not each.endswith(_PACKAGES):
                raise InvalidRequestError(
                    f"{each!r} cannot be injected, and the packer would leave it out without a word",
                    hint=f"The names of packages end in {', '.join(_PACKAGES)}.",
                )
            files[each] = path
            argv.append(f"{option}={each}" if argument != name else each)
    return Injection(tuple(argv), files)


def matching(project: Path, pattern: str, what: str) -> list[str]:
    """The files that match a pattern, which is relative to the project or absolute, and may lead out of it; in order.

    Raises:
        InvalidRequestError: There is none.
    """
    files = matches(project, pattern)
    if not files:
        raise InvalidRequestError(
            f"No file matches {pattern!r} of {what}, as seen from {project}",
            hint="Build what is injected first; patterns are relative to the project.",
        )
    return files


def matches(directory: Path, pattern: str) -> list[str]:
    """The files that match a pattern, in order; as for a shell, it may lead out of the directory."""
    found = glob.glob(pattern, root_dir=directory, recursive=True)  # noqa: PTH207 - Path.glob does not
    return sorted(each for each in found if (directory / each).is_file())


def path_with_pixi() -> str:
    """PATH, and behind it where pixi installs itself and its tools, which services often lack."""
    home = os.environ.get("PIXI_HOME") or os.fspath(Path("~/.pixi").expanduser())
    return f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{home}/bin"


def has_pixi() -> bool:
    """Whether pixi itself is on this machine."""
    return shutil.which("pixi", path=path_with_pixi()) is not None


def with_packer(argv: Sequence[str]) -> list[str]:
    """The command, with pixi-pack by way of pixi where it is not installed.

    Raises:
        EnvironmentBuildError: Neither is.
    """
    if argv[0] != PACKER or shutil.which(PACKER, path=path_with_pixi()):
        return list(argv)
    if has_pixi():
        return ["pixi", "exec", *argv]
    raise EnvironmentBuildError(
        "There is neither pixi-pack nor pixi on this machine to pack the environment with",
        hint="Install it: `pixi global install pixi-pack`, or the file for this machine from "
        "https://github.com/Quantco/pixi-pack/releases on the PATH. `pack_cmd` names another command.",
    )


def without_secrets(text: str) -> str:
    """A text, fit for a log: without log-ins in addresses."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def without_executable(argv: Sequence[str]) -> list[str]:
    """The command, making a plain archive: without `--create-executable`, and what goes with that alone."""
    kept, skips = [], False
    for argument in argv:
        if skips or argument in ("--create-executable", "--pixi-unpack-source"):
            skips = argument == "--pixi-unpack-source"
        elif not argument.startswith("--pixi-unpack-source="):
            kept.append(argument)
    return kept


def created(said: str) -> str | None:
    """The path of what the packer says that it has made."""
    found = _CREATED.findall(said)
    return found[-1] if found else None


# What the packer says, and what helps. The first that fits.
_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"could not read lockfile|newer lockfile format",
        "The lock is of version {lock_version}; version 7 needs pixi-pack 0.7.7 or later: `pixi global update "
        "pixi-pack`. Or `pixi lock` anew.",
    ),
    (
        r"environment not found in lockfile",
        "`environment` names one of the manifest's `environments`; `pixi lock` after a change.",
    ),
    (
        r"platform not found in lockfile",
        "Add {platform} to `platforms` of the manifest, and run `pixi lock`.",
    ),
    (
        r"is not a wheel file",
        "Of packages from PyPI only wheels are packed. Build its wheel and name that in the manifest, or take it from "
        "conda-forge; `--ignore-pypi-non-wheel` leaves it out.",
    ),
    (
        r"Unsupported platform",
        "There is no pixi-unpack for {platform}. Take a pre-deployed environment there.",
    ),
    (
        r"checksum mismatch|hash mismatch",
        "What was downloaded is not what the lock names: a mirror or proxy changes it, or the channel does. Lock anew.",
    ),
    (
        r"could not copy file to channel directory",
        "A package is injected for a platform of which the environment has no other one; is it built for {platform}?",
    ),
    (
        r"which is not in the environment|not satisfied|cannot be installed because|constraint",
        "What is injected does not go with the packages of the lock; build it for their versions.",
    ),
    (
        r"Fetching pixi-unpack|github\.com",
        "Each pack fetches pixi-unpack from github.com; `--pixi-unpack-source` in `pack_cmd` names a copy.",
    ),
    (
        r"error sending request|dns error|name resolution|network is unreachable|connection refused|timed out|"
        r"could not download",
        "Packages are downloaded from where the lock says; is there a network, or a proxy to name in HTTPS_PROXY?",
    ),
    (
        r"unexpected argument|unrecognized (?:option|arguments)",
        "This pixi-pack does not know the option; 0.7.6 or later does. `pixi global update pixi-pack`.",
    ),
    (
        r"No such file or directory",
        "A wheel or package that the lock names by a path is missing on this machine, or `pixi` is, which builds conda "
        "packages from source.",
    ),
)
_OTHERWISE = "Try the same command in the project's directory."


@dataclass(frozen=True)
class Attempt:
    """What was tried, for the error.

    Args:
        title: What is packed.
        command: The command.
        platform: What for.
        lock_version: The version of the lock.
        work: Where its temporary files lie.
    """

    title: str
    command: str
    platform: str
    lock_version: int
    work: Path

    def error(self, status: int, said: str) -> DagsterSlurmError:
        """The error for a command that has failed. Pure."""
        said = without_secrets(said)
        full = local_store.no_space(f"packing {self.title}", self.work, said, self.command)
        if full is not None:
            return full
        values = {"platform": self.platform, "lock_version": self.lock_version}
        hint = next((text for pattern, text in _HINTS if re.search(pattern, said, re.IGNORECASE)), _OTHERWISE)
        why = last_lines(reason(said, status))
        return EnvironmentBuildError(
            f"{self.title[0].upper()}{self.title[1:]} cannot be packed, status {status}:\n{why}",
            hint=hint.format(**values),
            command=self.command,
        )


def run(argv: Sequence[str], project: Path, attempt: Attempt) -> str:
    """What a command says that packs in the directory of a project.

    Raises:
        EnvironmentBuildError: It cannot be run, or fails.
        LocalStorageError: There is no space left on this machine.
    """
    try:
        done = subprocess.run(
            argv,
            cwd=project,
            env={**os.environ, "PATH": path_with_pixi(), "TMPDIR": os.fspath(attempt.work)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        raise EnvironmentBuildError(
            f"{argv[0]} cannot be run: {error.strerror}", hint="Name another command with `pack_cmd`."
        ) from error
    said = done.stdout.decode(errors="replace")
    if done.returncode:
        raise attempt.error(done.returncode, said)
    return said
