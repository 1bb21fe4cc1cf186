"""The files of a project: what its wheel is made of, and whether any has changed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dagster_slurm.environments import local_store
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.transport import content

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> Mapping[str, Any]:
    """A file of TOML, read again when it has changed.

    Raises:
        InvalidRequestError: It cannot be read.
    """
    found = path.stat()
    return _read(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=64)
def _read(path: Path, written_ns: int, size: int) -> Mapping[str, Any]:
    del written_ns, size
    try:
        return toml(path.read_text(encoding="utf-8"), str(path))
    except (UnicodeDecodeError, OSError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}") from error


def toml(text: str, what: str) -> Mapping[str, Any]:
    """Text of TOML; `what` names it in errors.

    Raises:
        InvalidRequestError: It is none.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{what} cannot be read: {error}") from error


# What is in no wheel, where git does not say what is ignored.
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "build", "dist"})


# Of a project and paths in it: those that count.
Choose = Callable[[Path, Iterable[Path]], Iterable[Path]]


def everything(project: Path, paths: Iterable[Path]) -> Iterable[Path]:
    """All of them."""
    del project
    return paths


def files(project: Path, *, choose: Choose = everything) -> list[Path]:
    """The files of a project, relative and sorted: those that git does not ignore; without git, all but hidden ones."""
    listed = _by_git(project)
    found = walked(project) if listed is None else _with_those_behind_links(project, listed)
    return sorted(choose(project, [path for path in found if (project / path).is_file()]))


def _with_those_behind_links(project: Path, listed: Iterable[Path]) -> Iterator[Path]:
    """What git lists as one: a link to a directory, and a submodule."""
    for path in listed:
        if (project / path).is_dir():
            yield from (path / each for each in walked(project / path))
        else:
            yield path


def _by_git(project: Path) -> list[Path] | None:
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        # Of a directory that is ignored as a whole, such as `vendor/`, it lists nothing.
        ignored = subprocess.run(["git", "check-ignore", "-q", "."], cwd=project, capture_output=True, check=False)
        done = subprocess.run(argv, cwd=project, capture_output=True, check=False)
    except OSError:
        return None
    if done.returncode or ignored.returncode == 0:
        return None
    return [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]


def walked(project: Path) -> Iterator[Path]:
    """The files of a project, relative, but for hidden ones and what is made of others, whatever git ignores."""
    for where, directories, names in os.walk(project):
        here = Path(where)
        directories[:] = [name for name in directories if not _is_left_out(here / name)]
        yield from ((here / name).relative_to(project) for name in names if not name.startswith("."))


def _is_left_out(path: Path) -> bool:
    name = path.name
    return name.startswith(".") or name in _LEFT_OUT or name.endswith(".egg-info") or (path / "pyvenv.cfg").exists()


def digest(project: Path, *, choose: Choose = everything) -> str:
    """What changes when the name, content or execute bit of a file of a project does; the same in every checkout."""
    listed = files(project, choose=choose)

    def read_all() -> str:
        whole = hashlib.sha256()
        for path in listed:
            found = (project / path).read_bytes()
            executable = os.access(project / path, os.X_OK)
            whole.update(repr((os.fspath(path), executable, hashlib.sha256(found).hexdigest())).encode())
        return whole.hexdigest()

    return _kept_by_look([(os.fspath(path), *_seen(project / path)) for path in listed], read_all)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; it is read again when the file has changed."""
    return _kept_by_look([(os.fspath(path.resolve()), *_seen(path))], lambda: content.digest(path)[0])


def _kept_by_look(seen: Sequence[tuple[str | int, ...]], read: Callable[[], str]) -> str:
    """A digest of files, which are read only if they look otherwise than before."""
    by_look = hashlib.sha256(json.dumps(seen).encode("utf-8", "surrogateescape")).hexdigest()

    def write(part: Path) -> None:
        part.write_text(read(), encoding="ascii")

    return local_store.kept(f"sources/{by_look}", write).read_text(encoding="ascii")


def has_checksum(path: Path, checksum: str) -> bool:
    """Whether a file has the SHA-256, or the MD5 that follows `md5:`."""
    if not checksum.startswith("md5:"):
        return file_digest(path) == checksum
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == checksum.removeprefix("md5:")


def _seen(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino, stat.S_IMODE(found.st_mode)


def in_project(project: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Files of a project by their names in it."""
    return {path.as_posix(): project / path for path in paths}


def archive(named: Mapping[str, Path]) -> bytes:
    """Files as a tar archive, without dates and owners: the same files make the same one."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, path in sorted(named.items()):
            found = path.read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(found)
            info.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            tar.addfile(info, io.BytesIO(found))
    return gzip.compress(written.getvalue(), mtime=0)
