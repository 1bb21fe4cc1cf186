"""Wheels on this machine: fetched as the lock names them, or built from a project's sources."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import requests
from packaging.utils import parse_wheel_filename

from dagster_slurm.cluster.content_store import Part
from dagster_slurm.environments import local_store, sources
from dagster_slurm.environments.recipe import Tell, last_lines
from dagster_slurm.environments.target import Target
from dagster_slurm.environments.uv_export import LockedWheel, uv_program
from dagster_slurm.errors import DagsterSlurmError, EnvironmentBuildError, reason
from dagster_slurm.transport import content

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
        hint="Try the same command there. A uv project that is no package has `package = false` in [tool.uv].",
        command=command,
    )
