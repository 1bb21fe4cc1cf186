"""Environments of wheels, as `uv.lock` has them, installed without network; wheels are fetched or built here."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import requests
from packaging.pylock import Pylock
from packaging.utils import canonicalize_name, parse_wheel_filename

from dagster_slurm.cluster.content_store import Part
from dagster_slurm.environments import local_store, sources
from dagster_slurm.environments.recipe import Listed, Locked, Needs, Pack, Recipe, Tell, last_lines
from dagster_slurm.environments.sources import read_toml
from dagster_slurm.environments.target import Target
from dagster_slurm.environments.uv_export import (
    LockedWheel,
    Selection,
    exported,
    lock_path,
    locked_names,
    select,
    uv_program,
)
from dagster_slurm.errors import DagsterSlurmError, EnvironmentBuildError, InvalidRequestError, reason
from dagster_slurm.transport import content
from dagster_slurm.transport.shell import quote, shell_file

_PACKAGE = "dagster_slurm.environments"


@dataclass(frozen=True)
class UvRecipe(Recipe):
    """The packages that a project's `uv.lock` names, and the project itself.

    Args:
        project: The directory of `pyproject.toml`; `uv.lock` is there, or in that of its workspace.
        extras: Extras of the project.
        groups: Dependency groups of the project.
        python: The interpreter on the cluster, by name or path.
        setup: Lines of bash to run before, such as `module load python/3.11`.
        platform: What it is for; the login node's platform if None.
        build_on_remote: Have uv on the login node, which needs a network, fetch and build everything.
    """

    project: Path
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    python: str = "python3"
    setup: tuple[str, ...] = ()
    platform: str | None = None
    build_on_remote: bool = False

    @property
    def title(self) -> str:
        chosen = ", ".join([*self.extras, *self.groups])
        return f"the uv project {self._name()}{f' ({chosen})' if chosen else ''}"

    def needs(self) -> Needs:
        return Needs(self.python, self.setup, self.platform)

    def key_inputs(self, target: Target) -> Mapping[str, str]:
        setup = json.dumps(self.setup)
        if self.build_on_remote:
            root = lock_path(self.project).parent
            lock = hashlib.sha256(lock_path(self.project).read_bytes()).hexdigest()
            member = {"member": self.project.relative_to(root).as_posix()} if root != self.project else {}
            choice = json.dumps([self.extras, self.groups])
            return {"setup": setup, "lock": lock, "choice": choice, "project": sources.digest(root), **member}
        chosen = self._selection(target)
        projects = {each.name: sources.digest(self.project / each.directory) for each in chosen.projects}
        digests = sorted(wheel.sha256 for wheel in chosen.wheels)
        return {"setup": setup, "wheels": json.dumps(digests), "projects": json.dumps(projects, sort_keys=True)}

    def pack(self, target: Target, tell: Tell) -> Pack:
        if self.build_on_remote:
            return self._remote_pack()
        chosen = self._selection(target)
        found = self._locked(chosen)
        found += [of_project(self.project / each.directory, target, tell) for each in chosen.projects]
        names = " ".join(quote(part.name) for part in found)
        install = f'"$python" -I "$parts/install_wheels.py" "$parts" {names}\n{_ACTIVATE}'
        return Pack((*found, *_tools()), install)

    def listed(self, target: Target) -> tuple[Listed, ...] | None:
        if self.build_on_remote:
            return tuple(map(Listed.of, self._remote_pack().parts))
        chosen = self._selection(target)
        built = [Listed(f"{each.name} (its wheel is built first)") for each in chosen.projects]
        return (*map(Listed.of, (*self._locked(chosen), *_tools())), *built)

    def _locked(self, chosen: Selection) -> list[Part]:
        return [locked(wheel, self.project) for wheel in chosen.wheels]

    def _remote_pack(self) -> Pack:
        """The sources, those of its workspace included, for uv on the login node."""
        root = lock_path(self.project).parent
        part = Part.of("project.tar.gz", sources.archive(sources.in_project(root, sources.files(root))))
        where = quote(self.project.relative_to(root).as_posix())
        chosen = [f"--extra={quote(name)}" for name in self.extras] + [f"--group={quote(name)}" for name in self.groups]
        build = f"build_with_uv {' '.join((where, *chosen))}"
        install = "\n".join((shell_file(_PACKAGE, "build_with_uv.sh"), build, _ACTIVATE))
        return Pack((part,), install)

    def locked(self) -> Locked | None:
        if self.setup:
            # What these lines load may have packages too.
            return None
        return Locked(locked_names(self._exported()), "uv add")

    def _selection(self, target: Target) -> Selection:
        return select(self._exported(), target)

    def _exported(self) -> Pylock:
        self._manifest()
        return exported(self.project, self.extras, self.groups)

    def kind_of(self, name: str) -> str:
        """Whether a name, however it is spelled, is one of the project's `groups` or `extras`.

        Raises:
            InvalidRequestError: It is neither.
        """
        manifest = self._manifest()
        known = {
            "groups": manifest.get("dependency-groups", {}),
            "extras": manifest.get("project", {}).get("optional-dependencies", {}),
        }
        for kind, names in known.items():
            if canonicalize_name(name) in map(canonicalize_name, names):
                return kind
        there = ", ".join(sorted({*known["groups"], *known["extras"]})) or "none"
        raise InvalidRequestError(
            f"The uv project {self._name()} has neither a dependency group nor an extra {name!r}",
            hint=f"It has: {there}.",
        )

    def _name(self) -> str:
        # The root of a workspace may be no project.
        return str(self._manifest().get("project", {}).get("name", self.project.name))

    def _manifest(self) -> Mapping[str, Any]:
        path = self.project / "pyproject.toml"
        if not path.is_file():
            raise InvalidRequestError(f"There is no {path}", hint="`project_dir` is the directory of a project.")
        return read_toml(path)


def _tools() -> tuple[Part, ...]:
    """What installs wheels on the cluster."""
    return Part.of("install_wheels.py", _text("install_wheels.py")), Part.of("installer.zip", _installer())


def _text(name: str) -> bytes:
    return resources.files(_PACKAGE).joinpath(name).read_bytes()


_ACTIVATE = f"cat >activate.sh <<'END_OF_ACTIVATE'\n{shell_file(_PACKAGE, 'activate.sh')}END_OF_ACTIVATE\n"


@lru_cache(maxsize=1)
def _installer() -> bytes:
    """PyPA's installer, as one file that Python can import from."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _modules_of(resources.files("installer"), "installer/"):
            # Without a date of today: the same files make the same archive.
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return written.getvalue()


def _modules_of(directory: Any, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(directory.iterdir(), key=lambda each: each.name):
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _modules_of(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            yield f"{prefix}{entry.name}", entry.read_bytes()


_TIMEOUT_SECONDS = 60.0
_BLOCK_BYTES = 1 << 18
# ZIP has no dates before (reproducible builds): the same sources make the same wheel.
_EPOCH = "315532800"


def locked(wheel: LockedWheel, lock_directory: Path) -> Part:
    """A wheel that a lock names; fetched only when it is needed."""

    def fetch() -> Path:
        if wheel.path is not None:
            return _as_locked(wheel, lock_directory / wheel.path)
        return local_store.kept(f"wheels/{wheel.sha256}", lambda part: _download(wheel, part))

    return Part(wheel.filename, wheel.sha256, wheel.size_bytes, fetch)


def _as_locked(wheel: LockedWheel, path: Path) -> Path:
    if not path.is_file():
        raise EnvironmentBuildError(f"There is no {path}, which the lock names")
    found, _, _ = content.digest(path)
    if found != wheel.sha256:
        raise local_store.not_as_locked(str(path), found, wheel.sha256)
    return path


def _download(wheel: LockedWheel, part: Path) -> None:
    try:
        # Proxies, certificates and ~/.netrc are the user's, as requests finds them.
        with requests.get(wheel.url or "", stream=True, timeout=_TIMEOUT_SECONDS) as answer:
            answer.raise_for_status()
            local_store.checked(answer.iter_content(_BLOCK_BYTES), wheel.sha256, part, what=wheel.filename)
    except requests.RequestException as error:
        raise EnvironmentBuildError(
            f"Cannot fetch {wheel.filename}: {error}",
            hint="The lock names where it is; a private index needs its login in ~/.netrc.",
        ) from error


def of_project(project: Path, target: Target, tell: Tell, *, choose: sources.Choose = sources.everything) -> Part:
    """The wheel of a project of this machine; built when its sources have changed.

    Args:
        project: Its directory.
        target: What it has to be for.
        tell: Gets what is done.
        choose: Which of the project's files are sources.

    Raises:
        EnvironmentBuildError: It cannot be built, or is for another machine.
    """
    name = sources.digest(project, choose=choose)
    kept = local_store.kept(f"built/{name}", lambda part: _build(project, part, tell))
    filename, _, wheel = kept.read_bytes().partition(b"\n")
    part = Part.of(filename.decode(), wheel)
    check_platform(part.name, project, target)
    return part


def check_platform(filename: str, project: Path, target: Target) -> None:
    """Refuse what was compiled for this machine where the target is another one. Pure.

    Raises:
        EnvironmentBuildError: It is for another platform.
    """
    platforms = {tag.platform for tag in parse_wheel_filename(filename)[3]}
    fits = {each for each in platforms if each == "any" or ("linux" in each and each.endswith(target.machine))}
    if not fits:
        raise EnvironmentBuildError(
            f"The wheel of {project} that is built here is for {', '.join(sorted(platforms))}, and not for "
            f"{target.platform}",
            hint="Build it on such a machine, or set `build_on_remote` (uv) or `pack_on_remote` (pixi).",
        )


def _build(project: Path, part: Path, tell: Tell) -> None:
    tell(f"Building the wheel of {project}")
    with local_store.workplace() as work:
        out = work / "wheel"
        out.mkdir()
        argv = [uv_program(), "build", "--quiet", "--wheel", "--out-dir", os.fspath(out), os.fspath(project)]
        environment = {
            **os.environ,
            "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", _EPOCH),
            "TMPDIR": os.fspath(work),
        }
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        built = list(out.glob("*.whl"))
        if done.returncode or not built:
            raise _not_built(project, " ".join(argv), f"{done.stdout}{done.stderr}", done.returncode, work)
        part.write_bytes(built[0].name.encode() + b"\n" + built[0].read_bytes())


def _not_built(project: Path, command: str, said: str, status: int, work: Path) -> DagsterSlurmError:
    why = last_lines(reason(said, status))
    return local_store.no_space(f"building the wheel of {project}", work, said, command) or EnvironmentBuildError(
        f"The wheel of {project} cannot be built:\n{why}",
        hint="Try the same command by hand. A uv project that is no package has `package = false` in [tool.uv].",
        command=command,
    )
