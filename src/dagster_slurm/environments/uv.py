"""An environment of wheels, as `uv.lock` has them, installed without network."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from packaging.pylock import Pylock
from packaging.utils import canonicalize_name

from dagster_slurm.cluster.content_store import Part
from dagster_slurm.environments import sources, wheels
from dagster_slurm.environments.recipe import Listed, Locked, Needs, Pack, Recipe, Tell
from dagster_slurm.environments.sources import read_toml
from dagster_slurm.environments.target import Target
from dagster_slurm.environments.uv_export import Selection, exported, lock_path, locked_names, select
from dagster_slurm.errors import InvalidRequestError
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
        found += [wheels.of_project(self.project / each.directory, target, tell) for each in chosen.projects]
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
        return [wheels.locked(wheel, self.project) for wheel in chosen.wheels]

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
