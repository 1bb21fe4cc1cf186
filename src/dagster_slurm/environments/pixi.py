"""An environment of conda packages, as `pixi.lock` has them, packed by pixi-pack.

Source of the command line and of what the packed file does: https://pixi.prefix.dev/latest/deployment/pixi_pack/
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dagster_slurm.environments import local_store, self_extracting, sources
from dagster_slurm.environments.recipe import Needs, Pack, Part, Recipe, Tell, last_lines
from dagster_slurm.environments.target import Target
from dagster_slurm.errors import EnvironmentBuildError, InvalidRequestError
from dagster_slurm.transport import content
from dagster_slurm.transport.shell import quote, shell_file

LOCK_NAME = "pixi.lock"
# The status with which the installing script says that the login node has nothing to pack with.
NOT_ON_REMOTE = 70
_MANIFESTS = ("pixi.toml", "pyproject.toml")
_PACKED_NAME = "environment.sh"
_PACKER = "pixi-pack"
_OPTIONS = "--environment {environment} --platform {platform} --create-executable --output-file {output} {manifest}"
_DEFAULT_COMMAND = (_PACKER, *_OPTIONS.split())
_PLACEHOLDER = re.compile(r"(\{(?:output|platform|environment|manifest)\})")
_PACKAGES = (".conda", ".tar.bz2", ".whl")
_MIB = 1 << 20
# What another form of the kept file needs: another name.
_FORM = "1"
_UNPACK = f"bash ./{_PACKED_NAME}\nrm -f ./{_PACKED_NAME}\n"


def has_lock(directory: Path) -> bool:
    """Whether a directory is one of a pixi project with a lock."""
    return (directory / LOCK_NAME).is_file()


@dataclass(frozen=True)
class PixiRecipe(Recipe):
    """An environment of a project's `pixi.lock`.

    Args:
        project: The directory of the manifest (`pixi.toml` or `pyproject.toml`) and `pixi.lock`.
        environment: The name of the environment in the manifest.
        platform: What it is for, by conda's name (`linux-64`); the login node's platform if None.
        pack_cmd: Another command that packs, run in `project`. In its arguments `{output}` becomes the file that it has
            to write (its name ends in `.sh`), `{platform}`, `{environment}` and `{manifest}` what they say. Without
            `{output}` it has to leave `environment.sh` in `project`. What it makes is run by bash, and has to make
            `activate.sh` and `env/bin/python` in the working directory.
        cache_inject_globs: Files of the project (relative patterns, `**` for any depth) that the command puts into the
            environment, so that another content makes it another environment. Those after `--inject` or `-i` are known.
        pack_on_remote: Pack on the login node, which needs pixi-pack or pixi there, and a network. It makes the same
            environment, under the same key.
        use_kept: Send what an earlier run has packed from the same inputs, and left on this machine.
    """

    project: Path
    environment: str = "default"
    platform: str | None = None
    pack_cmd: tuple[str, ...] | None = None
    cache_inject_globs: tuple[str, ...] = ()
    pack_on_remote: bool = False
    use_kept: bool = True

    @property
    def title(self) -> str:
        return f"the pixi environment {self.environment} of {self.project.resolve().name}"

    def needs(self) -> Needs:
        return Needs(platform=self.platform)

    def fallback(self) -> PixiRecipe | None:
        """The same, packed here: for where the installing script ends with `NOT_ON_REMOTE`. None if it is already."""
        return replace(self, pack_on_remote=False) if self.pack_on_remote else None

    def afresh(self) -> PixiRecipe:
        return replace(self, use_kept=False)

    def key_inputs(self, target: Target) -> Mapping[str, str]:
        if not has_lock(self.project):
            raise InvalidRequestError(f"There is no {self.project / LOCK_NAME}", hint="`pixi lock` makes it.")
        here = os.fspath(self.project.resolve())
        command = [argument.replace(here, "{project}") for argument in self._command()]
        injected = {os.path.relpath(path, self.project): content.digest(path)[0] for path in self._injected(target)}
        return {
            "lock": content.digest(self.project / LOCK_NAME)[0],
            "environment": self.environment,
            "command": json.dumps(command),
            "injected": json.dumps(injected, sort_keys=True),
        }

    def pack(self, target: Target, tell: Tell) -> Pack:
        if self.pack_on_remote:
            return self._remote_pack(target)
        inputs = {"form": _FORM, **target.key_inputs(), **self.key_inputs(target)}
        name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        if not self.use_kept:
            local_store.forget(f"packs/{name}")
        kept = local_store.kept(f"packs/{name}", lambda part: self._pack_here(target, part, tell))
        parts, again = self_extracting.parts(kept)
        return Pack(parts, f"set -o pipefail\n{again} >{_PACKED_NAME}\n{_UNPACK}")

    def _pack_here(self, target: Target, part: Path, tell: Tell) -> None:
        began = time.monotonic()
        # Not in /tmp, which is small, or memory, on some machines.
        with tempfile.TemporaryDirectory(dir=part.parent, prefix=".pack-") as out:
            # pixi-pack makes the suffix `.sh`, whatever it was told. Absolute: the command runs in the project.
            made = self._run(target, Path(out, _PACKED_NAME).resolve(), tell)
            self_extracting.take_apart(made, part)
            tell(f"Packed {made.stat().st_size / _MIB:.0f} MiB in {time.monotonic() - began:.1f} s")

    def _run(self, target: Target, output: Path, tell: Tell) -> Path:
        """Run the command, and say which file it has made."""
        command, environment = self._command(), _with_pixi_on_path()
        made = output if any("{output}" in argument for argument in command) else self.project / _PACKED_NAME
        before = _look(made)
        filled = self._filled({**self._values(target), "{output}": os.fspath(output)})
        argv = _with_packer(filled, environment["PATH"])
        tell(f"Running {' '.join(argv)}")
        said = self._said(argv, environment)
        if _look(made) in (None, before):
            raise EnvironmentBuildError(
                f"{argv[0]} has ended well, and has not made {made.name}:\n{said}",
                hint=f"`pack_cmd` has to write {{output}}, or {_PACKED_NAME} in the project's directory.",
                command=" ".join(argv),
            )
        return made

    def _said(self, argv: list[str], environment: Mapping[str, str]) -> str:
        """The last lines of what a command says.

        Raises:
            EnvironmentBuildError: It fails.
        """
        try:
            done = subprocess.run(
                argv,
                cwd=self.project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except OSError as error:
            raise EnvironmentBuildError(
                f"{argv[0]} cannot be run: {error.strerror}", hint="Name another command with `pack_cmd`."
            ) from error
        said = last_lines(done.stdout.decode(errors="replace"))
        if done.returncode:
            raise EnvironmentBuildError(
                f"{self.title[0].upper()}{self.title[1:]} cannot be packed, status {done.returncode}:\n{said}",
                hint="Try the same command there. `platforms` of the manifest has to have the cluster's platform, and "
                "packages from PyPI have to be wheels.",
                command=" ".join(argv),
            )
        return said

    def _remote_pack(self, target: Target) -> Pack:
        """The project, for pixi-pack on the login node."""
        injected = [Path(os.path.relpath(path, self.project)) for path in self._injected(target)]
        for path in injected:
            if path.parts[0] == "..":
                raise InvalidRequestError(
                    f"{path} is not within the project, and cannot be injected on the cluster",
                    hint="Put it there, or leave `pack_on_remote` out.",
                )
        files = {*sources.files(self.project), *injected, Path(self._manifest()), Path(LOCK_NAME)}
        # Left by a pack of before: the installing script would take it for its own.
        part = Part.of("project.tar.gz", sources.archive(self.project, sorted(files - {Path(_PACKED_NAME)})))
        values = {name: quote(value) for name, value in self._values(target).items()}
        values["{output}"] = f'"$PWD"/{_PACKED_NAME}'
        command = " ".join(_for_shell(argument, values) for argument in self._command())
        functions = shell_file("dagster_slurm.environments", "pack_with_pixi.sh")
        return Pack((part,), f"{functions}pack_with_pixi {command}\n{_UNPACK}")

    def _command(self) -> tuple[str, ...]:
        return self.pack_cmd or _DEFAULT_COMMAND

    def _filled(self, values: Mapping[str, str]) -> list[str]:
        return [_PLACEHOLDER.sub(lambda match: values[match[0]], argument) for argument in self._command()]

    def _values(self, target: Target) -> dict[str, str]:
        return {
            "{platform}": target.platform,
            "{environment}": self.environment,
            "{manifest}": self._manifest(),
        }

    def _manifest(self) -> str:
        for name in _MANIFESTS:
            if (self.project / name).is_file():
                return name
        raise InvalidRequestError(
            f"There is neither {' nor '.join(_MANIFESTS)} in {self.project}",
            hint="It is the directory of a pixi project.",
        )

    def _injected(self, target: Target) -> list[Path]:
        """The files that get into the environment and are not in the lock."""
        found = {self.project / name for name in injected_names(self._filled({**self._values(target), "{output}": ""}))}
        missing = sorted(path for path in found if not path.is_file())
        if missing:
            raise InvalidRequestError(f"There is no {missing[0]} to inject", hint="Build it, or name another.")
        for pattern in self.cache_inject_globs:
            matched = {path for path in _glob(self.project, pattern) if path.is_file()}
            if not matched:
                raise InvalidRequestError(
                    f"No file of {self.project} matches {pattern!r} of `cache_inject_globs`",
                    hint="Build what is injected first; patterns are relative to the project.",
                )
            found |= matched
        return sorted(found)


def injected_names(command: Iterable[str]) -> list[str]:
    """What a command injects: behind `--inject` or `-i`, which take any number of packages. Pure."""
    names: list[str] = []
    first, more = False, False
    for argument in command:
        option, separator, value = argument.partition("=")
        if option in ("--inject", "-i"):
            names += [value] if separator else []
            first, more = not separator, not separator
        elif argument.startswith("-"):
            first, more = False, False
        elif first or (more and argument.endswith(_PACKAGES)):
            names.append(argument)
            first = False
        else:
            more = False
    return names


def _glob(project: Path, pattern: str) -> list[Path]:
    try:
        return list(project.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise InvalidRequestError(
            f"{pattern!r} of `cache_inject_globs` is no pattern: {error}", hint="Patterns are relative to the project."
        ) from error


def _with_pixi_on_path() -> dict[str, str]:
    """The process's own environment; services often lack the directory where pixi installs itself and its tools."""
    home = os.environ.get("PIXI_HOME") or os.fspath(Path("~/.pixi").expanduser())
    return {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{home}/bin"}


def _with_packer(argv: list[str], path: str) -> list[str]:
    """The command, with pixi-pack by way of pixi where it is not installed.

    Raises:
        EnvironmentBuildError: Neither is.
    """
    if argv[0] != _PACKER or shutil.which(_PACKER, path=path):
        return argv
    if shutil.which("pixi", path=path):
        return ["pixi", "exec", *argv]
    raise EnvironmentBuildError(
        "There is neither pixi-pack nor pixi on this machine to pack the environment with",
        hint="Install it: `pixi global install pixi-pack`, or the file for this machine from "
        "https://github.com/Quantco/pixi-pack/releases on the PATH. `pack_cmd` names another command.",
    )


def _for_shell(argument: str, values: Mapping[str, str]) -> str:
    """An argument, with shell for its placeholders."""
    pieces = [piece for piece in _PLACEHOLDER.split(argument) if piece]
    return "".join(values.get(piece) or quote(piece) for piece in pieces) or quote("")


def _look(path: Path) -> tuple[int, int, int] | None:
    """What is another one after the file has been written; None for none, and for an empty one."""
    if not path.is_file() or not path.stat().st_size:
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
