"""An environment of a pixi project: packed by pixi-pack from `pixi.lock`, sent file by file, unpacked by pixi-unpack.

ADR 15 says why. Source of what is called: https://pixi.prefix.dev/latest/deployment/pixi_pack/
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from dagster_slurm.cluster.content_store import Part
from dagster_slurm.environments import local_store, pixi_command, pixi_packs, sources, uv
from dagster_slurm.environments.pixi_lock import Kind, LockedPackage, Task, lock_version, locked_packages, of_task
from dagster_slurm.environments.pixi_pack import Contents, Expected
from dagster_slurm.environments.recipe import Listed, Locked, Needs, Pack, Recipe, Tell, last_lines
from dagster_slurm.environments.target import Target
from dagster_slurm.errors import EnvironmentBuildError, InvalidRequestError, reason
from dagster_slurm.text import counted
from dagster_slurm.transport import content
from dagster_slurm.transport.shell import shell_file

LOCK_NAME = "pixi.lock"
UNPACKER = "pixi-unpack"
# Of these there is a pixi-unpack (releases of pixi-pack 0.7.10).
PLATFORMS = ("linux-64", "linux-aarch64")
_PACKED = ("environment.sh", "environment.tar", "environment")
_MIB = 1 << 20
# The clock of a file server may be off.
_CLOCKS_SECONDS = 60.0
# What another form of the kept files needs: another name.
_FORM = "2"
Look = tuple[int, int, int]
_USUAL_PLATFORM = "linux-64"


@dataclass(frozen=True)
class PixiRecipe(Recipe):
    """An environment of a project's `pixi.lock`.

    Args:
        project: The directory of the manifest (`pixi.toml` or `pyproject.toml`) and `pixi.lock`.
        environment: The name of the environment in the manifest.
        platform: What it is for, by conda's name (`linux-64`); the login node's platform if None.
        pack_cmd: Another command that packs, run in `project`. In its arguments `{output}` becomes the file that it has
            to write, `{platform}`, `{environment}`, `{manifest}` and `{cache}` what they say. Without `{output}` it has
            to say `Created pack at PATH`, or to leave `environment.sh`, `environment.tar` or `environment` there.
            What it makes is a pack of pixi-pack, in any of its forms.
        cache_inject_globs: Files (relative patterns, `**` for any depth) that the command puts into the environment, so
            that another content makes it another environment. Those after `--inject` or `-i` are known.
        pack_on_remote: Pack on the login node, which needs pixi there, and a network. It makes the same environment,
            under the same key.
    """

    project: Path
    environment: str = "default"
    platform: str | None = None
    pack_cmd: tuple[str, ...] | None = None
    cache_inject_globs: tuple[str, ...] = ()
    pack_on_remote: bool = False

    @property
    def title(self) -> str:
        return f"the pixi environment {self.environment} of {self.project.resolve().name}"

    def needs(self) -> Needs:
        return Needs(platform=self.platform, program=UNPACKER)

    def fallback(self) -> PixiRecipe | None:
        """The same, packed here: for where the installing script ends with status 70. None if it is already."""
        # What packs is named, so that it packs the same where this machine would choose another command.
        return replace(self, pack_on_remote=False, pack_cmd=self._command()) if self.pack_on_remote else None

    def discard(self, target: Target) -> None:
        pixi_packs.discard(self._kept_name(target))

    def key_inputs(self, target: Target) -> Mapping[str, str]:
        packages = self._packages(target)
        self._check_target(target, packages)
        here = os.fspath(self.project.resolve())
        command = [argument.replace(here, "{project}") for argument in self._command()]
        injected = {name: sources.file_digest(path) for name, path in self._injected(target).items()}
        chosen = sorted([each.kind.name, each.location, self._content_of(each)] for each in packages)
        return {
            "packages": hashlib.sha256(json.dumps(chosen).encode()).hexdigest(),
            "environment": self.environment,
            # What a task runs stands in the manifest.
            "command": json.dumps([command, task.tables if (task := self._task()) else {}], sort_keys=True),
            "injected": json.dumps(injected, sort_keys=True),
        }

    def pack(self, target: Target, tell: Tell) -> Pack:
        packages = self._packages(target)
        self._check_packable(packages)
        if self.pack_on_remote:
            return self._remote_pack(target, packages, tell)
        name = self._kept_name(target)
        contents = pixi_packs.kept(name)
        if contents is None:
            contents = pixi_packs.keep(
                partial(self._pack_here, target, packages, tell),
                lambda: name if name == self._kept_name(target) else "",
            )
            pixi_packs.keep_once(_cache(), self._cached(packages))
        return pixi_packs.pack_of(contents, target)

    def listed(self, target: Target) -> tuple[Listed, ...]:
        if self.pack_on_remote:
            return (Listed("project.tar.gz (the project, to be packed on the login node)"),)
        found = []
        for each in self._packages(target):
            if each.is_file:
                path = self._local(each)
                size = each.size_bytes or (path.stat().st_size if path else 0)
                found.append(Listed(each.filename, self._content_of(each), size))
            else:
                found.append(Listed(f"{each.what} (its package is built first)"))
        return tuple(found)

    def locked(self) -> Locked | None:
        if self.pack_cmd is not None:
            # It may put in what the lock does not have.
            return None
        path = self.project / LOCK_NAME
        try:
            look = path.stat()
            found = _locked(path, look.st_mtime_ns, look.st_size, self.environment, self.platform or _USUAL_PLATFORM)
        except (OSError, InvalidRequestError):
            # What is wrong with it is said where it is packed, for the platform that the cluster has.
            return None
        feature = "" if self.environment == "default" else f" --feature {self.environment}"
        return Locked(frozenset(package.name for package in found), f"pixi add{feature}", is_conda=True)

    # -- what is in it

    def _packages(self, target: Target) -> tuple[LockedPackage, ...]:
        path = self.project / LOCK_NAME
        if not path.is_file():
            raise InvalidRequestError(f"There is no {path}", hint="`pixi lock` makes it.")
        self._manifest()
        look = path.stat()
        return _locked(path, look.st_mtime_ns, look.st_size, self.environment, target.platform)

    def _local(self, package: LockedPackage) -> Path | None:
        """Where a package lies on this machine.

        Raises:
            InvalidRequestError: It is not where the lock says.
        """
        if package.local_path is None:
            return None
        path = self.project / package.local_path
        if not path.exists():
            raise InvalidRequestError(
                f"There is no {path}, which {LOCK_NAME} names for {package.what}", hint="Build it, or lock anew."
            )
        return path

    def _content_of(self, package: LockedPackage) -> str:
        """What changes when the package does: its checksum in the lock, or what lies on this machine."""
        path = self._local(package)
        if path is None:
            return package.checksum
        # The lock's checksum may be one of before.
        return sources.file_digest(path) if path.is_file() else sources.digest(path, choose=wheel_sources)

    def _check_target(self, target: Target, packages: Iterable[LockedPackage]) -> None:
        """Refuse what could not be unpacked on the cluster."""
        if target.login_platform not in (None, target.platform):
            raise InvalidRequestError(
                f"The login node is {target.login_platform}, and pixi-unpack installs {target.platform} only on such "
                "a machine",
                hint="Unpack it on a node of that kind, and name it with `pre_deployed_env_path`; or take a "
                "UvEnvironment.",
            )
        if target.platform not in PLATFORMS:
            raise InvalidRequestError(
                f"There is no pixi-unpack for {target.platform}",
                hint=f"There is one for {' and '.join(PLATFORMS)}. Take a UvEnvironment, or a pre-deployed one.",
            )
        needed = max((each for each in packages if each.glibc), key=lambda each: each.glibc or (), default=None)
        if needed and needed.glibc and target.glibc and needed.glibc > target.glibc:
            wanted, found = (".".join(map(str, version)) for version in (needed.glibc, target.glibc))
            raise InvalidRequestError(
                f"{needed.what} needs glibc {wanted}, and the login node has {found}",
                hint=f'Set `[system-requirements]` `libc = "{found}"` in the manifest, and run `pixi lock`.',
            )

    def _check_packable(self, packages: Iterable[LockedPackage]) -> None:
        """Refuse what the packer would refuse, by name, before it downloads everything else."""
        command = self._command()
        # What a task or a script gives the packer is not known here.
        refuses = command[0] == pixi_command.PACKER and "--ignore-pypi-non-wheel" not in command
        for each in packages:
            if each.kind is Kind.SDIST and refuses:
                raise EnvironmentBuildError(
                    f"{each.what} is locked as a source distribution, {each.filename or each.location}; only wheels "
                    "are packed",
                    hint="Build its wheel and name that in the manifest (`NAME = { path = ... }`), or take it from "
                    "conda-forge.",
                )
            if each.kind is Kind.CONDA_SOURCE and not self.pack_on_remote and not pixi_command.has_pixi():
                raise EnvironmentBuildError(
                    f"{each.what} is a conda package that is built from source, and `pixi`, which builds it, is not on "
                    "the PATH",
                    hint="Install pixi, or set `pack_on_remote` where the login node has it.",
                )

    # -- how it is packed

    def _command(self) -> tuple[str, ...]:
        if self.pack_cmd:
            return self.pack_cmd
        task = self._task()
        return task.words if task else pixi_command.DEFAULT

    def _task(self) -> Task | None:
        """The project's own, if it is what packs. It packs what it is written for: the environment `default`."""
        task = of_task(self.project) if self.environment == "default" else None
        has_pixi = self.pack_on_remote or pixi_command.has_pixi()
        is_chosen = has_pixi if self.pack_cmd is None else task is not None and self.pack_cmd == task.words
        return task if is_chosen else None

    def _values(self, target: Target) -> dict[str, str]:
        return {"{platform}": target.platform, "{environment}": self.environment, "{manifest}": self._manifest()}

    def _manifest(self) -> str:
        for name in pixi_command.MANIFESTS:
            if (self.project / name).is_file():
                return name
        raise InvalidRequestError(
            f"There is neither {' nor '.join(pixi_command.MANIFESTS)} in {self.project}",
            hint="It is the directory of a pixi project.",
        )

    def _injected(self, target: Target) -> dict[str, Path]:
        """The files that get into the environment and are not in the lock, by what names them."""
        command = pixi_command.filled(self._command(), self._values(target))
        found = dict(pixi_command.expanded(command, self.project).files)
        for pattern in self.cache_inject_globs:
            matched = pixi_command.matching(self.project, pattern, "`cache_inject_globs`")
            found |= {each: self.project / each for each in matched}
        if task := self._task():
            found |= task.injected()
        return {os.path.relpath(path, self.project): path for path in found.values()}

    def _built(self, packages: Iterable[LockedPackage], target: Target, into: Path, tell: Tell) -> list[str]:
        """The wheels of the projects that the lock names, for the default command; others see to it themselves."""
        if self._command() != pixi_command.DEFAULT:
            return []
        projects = [path for each in packages if each.kind is Kind.PROJECT and (path := self._local(each))]
        built = [uv.of_project(path, target, tell, choose=wheel_sources) for path in projects]
        for part in built:
            (into / part.name).write_bytes(content.opened(part.fetch()).read())
        return [os.fspath(into / part.name) for part in built]

    def _kept_name(self, target: Target) -> str:
        inputs = {"form": _FORM, **target.key_inputs(), **self.key_inputs(target)}
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def _cached(self, packages: Iterable[LockedPackage]) -> dict[Path, str]:
        """What the packer's cache may have of them: SHA-256 by name."""
        return {pixi_packs.cached_name(each): self._content_of(each) for each in packages if each.is_file}

    def _expected(self, packages: Iterable[LockedPackage], injected: Iterable[Path]) -> list[Expected]:
        """What a pack has to have."""
        put = [Expected(path.name, sources.file_digest(path), "is injected", anywhere=True) for path in injected]
        replaced = {each.member for each in put}
        files = (each for each in packages if each.is_file and each.filename not in replaced)
        return [*(Expected(each.member, self._content_of(each), f"{LOCK_NAME} names") for each in files), *put]

    def _pack_here(self, target: Target, packages: Sequence[LockedPackage], tell: Tell, work: Path) -> Contents:
        began = time.monotonic()
        command = pixi_command.with_wheels(self._command(), self._built(packages, target, work, tell))
        tried = pixi_command.filled(command, {**self._values(target), "{cache}": os.fspath(_cache())})
        injection = pixi_command.expanded(tried, self.project)
        with pixi_packs.cache_of(_cache(), self._cached(packages), tell):
            made = self._run(injection.argv, target, work, tell)
            expected = self._expected(packages, injection.files.values())
            contents = pixi_packs.taken_apart(made, work, expected, target)
        size = sum(member.size_bytes for member in contents.members)
        files = counted(len(contents.members), "file")
        tell(f"Packed {files}, {size / _MIB:.0f} MiB, in {time.monotonic() - began:.1f} s")
        return contents

    def _run(self, command: Sequence[str], target: Target, work: Path, tell: Tell) -> Path:
        """Run the command, and say what it has made."""
        output = work / _PACKED[0]
        before = {path: _look(path) for path in (self.project / name for name in _PACKED)}
        argv = pixi_command.with_packer(pixi_command.filled(command, {"{output}": os.fspath(output)}))
        text = (self.project / LOCK_NAME).read_text(encoding="utf-8", errors="replace")
        line = pixi_command.without_secrets(" ".join(argv))
        attempt = pixi_command.Attempt(self.title, line, target.platform, lock_version(text), work)
        began = time.time()
        tell(f"Running {attempt.command}")
        said = self._said(argv, attempt, tell)
        takes_output = any("{output}" in argument for argument in command)
        candidates = [output] if takes_output else self._left(said, before, began)
        made = next((path for path in candidates if _look(path)), None)
        if made is None:
            why = last_lines(reason(pixi_command.without_secrets(said), 0))
            raise EnvironmentBuildError(
                f"{argv[0]} has ended well, and has not made {_PACKED[0]}:\n{why}",
                hint=f"`pack_cmd` has to write {{output}}, or {', '.join(_PACKED)} in the project's directory.",
                command=attempt.command,
            )
        return made

    def _left(self, said: str, before: Mapping[Path, Look | None], began: float) -> list[Path]:
        """What a command may have left in the project; what was there before is not what it has made."""
        changed = [path for path in before if _look(path) != before[path]]
        stated = pixi_command.created(said)
        path = self.project / stated if stated else None
        if path is None or path in before or not path.exists():
            # It may be said as seen from another directory.
            return changed
        return [path, *changed] if path.stat().st_mtime > began - _CLOCKS_SECONDS else changed

    def _said(self, argv: Sequence[str], attempt: pixi_command.Attempt, tell: Tell) -> str:
        """What the packer says. Without a way to fetch pixi-unpack it packs without, if an earlier pack brought one."""
        try:
            return pixi_command.run(argv, self.project, attempt)
        except EnvironmentBuildError as error:
            has_one = "--create-executable" in argv and pixi_packs.unpackers(attempt.platform)
            if UNPACKER not in error.message or not has_one:
                raise
            tell(f"{UNPACKER} cannot be fetched; taking the one of an earlier pack")
            with suppress(EnvironmentBuildError):
                return pixi_command.run(pixi_command.without_executable(argv), self.project, attempt)
            raise

    def _remote_pack(self, target: Target, packages: Sequence[LockedPackage], tell: Tell) -> Pack:
        """The project, for pixi-pack on the login node."""
        files = sources.in_project(self.project, sources.files(self.project, choose=pixi_packs.without_packs))
        files |= sources.in_project(self.project, map(Path, (self._manifest(), LOCK_NAME)))
        builds_here = self._command() == pixi_command.DEFAULT
        for each in packages:
            if (path := self._local(each)) and not (builds_here and each.kind is Kind.PROJECT):
                files |= self._sent(path, f"{LOCK_NAME} names {each.what}")
        for pattern in self.cache_inject_globs:
            for name in pixi_command.matching(self.project, pattern, "`cache_inject_globs`"):
                files |= self._sent(self.project / name, "`cache_inject_globs` names it")
        with local_store.workplace() as work:
            command = pixi_command.for_login_node(self._command(), self._built(packages, target, work, tell))
            argv, put = self._injected_there(pixi_command.filled(command, self._values(target)))
            part = Part.of("project.tar.gz", sources.archive({**files, **put}))
        output = "environment" if "--directory-only" in argv else _PACKED[0]
        values = {"{output}": f'"$PWD"/{output}', "{cache}": '"$PWD"/.tmp/pixi'}
        line = " ".join(pixi_command.for_shell(argument, values) for argument in argv)
        functions = shell_file("dagster_slurm.environments", "pack_with_pixi.sh")
        return Pack((part,), f"{functions}pack_with_pixi {line}\n")

    def _injected_there(self, command: Sequence[str]) -> tuple[list[str], dict[str, Path]]:
        """The command with what it injects lying in the project, and what has to be sent for that."""
        injection = pixi_command.expanded(command, self.project)
        sent: dict[str, Path] = {}
        renamed: dict[str, str] = {}
        for name, path in injection.files.items():
            inside = os.path.relpath(path, self.project)
            renamed[name] = f".dagster-slurm/{path.name}" if inside.startswith("..") else inside
            sent[renamed[name]] = path
        argv = list(injection.argv)
        for number in pixi_command.injecting(argv):
            option, separator, value = argv[number].partition("=")
            in_option = separator and value in renamed
            argv[number] = f"{option}={renamed[value]}" if in_option else renamed.get(argv[number], argv[number])
        return argv, sent

    def _sent(self, path: Path, why: str) -> dict[str, Path]:
        """A file, or the files of a directory, as they lie in the project."""
        inside = os.path.relpath(path, self.project)
        if inside.startswith(".."):
            raise InvalidRequestError(
                f"{inside} is not within the project, and cannot be packed on the cluster; {why}",
                hint="Move it into the project, or leave `pack_on_remote` out.",
            )
        if path.is_file():
            return {Path(inside).as_posix(): path}
        found = sources.files(path, choose=wheel_sources)
        return {(Path(inside) / each).as_posix(): path / each for each in found}


@lru_cache(maxsize=16)
def _locked(path: Path, written_ns: int, size: int, environment: str, platform: str) -> tuple[LockedPackage, ...]:
    """The packages of a lock, read again when it has changed."""
    del written_ns, size
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be read: {error.strerror}") from error
    return locked_packages(text, environment, platform, name=str(path))


def _cache() -> Path:
    """What the packer is given as `--use-cache`."""
    return local_store.directory().absolute() / "pixi"


def wheel_sources(project: Path, paths: Iterable[Path]) -> list[Path]:
    """The files of a project that its wheel may be made of."""
    return [path for path in pixi_packs.without_packs(project, paths) if path.name != LOCK_NAME]


def _look(path: Path) -> Look | None:
    """What is another one after the file has been written; None for none, and for an empty one."""
    if not path.exists() or not (path.is_dir() or path.stat().st_size):
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
