"""The files of a project: what its wheel is made of, and whether any has changed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from dagster_slurm.environments import local_store

# What is in no wheel, where git does not say what is ignored.
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "build", "dist"})


def files(project: Path) -> list[Path]:
    """The files of a project, relative and sorted: those that git does not ignore; without git, all but hidden ones."""
    listed = _by_git(project)
    found = _by_walking(project) if listed is None else listed
    return sorted(path for path in found if (project / path).is_file())


def _by_git(project: Path) -> list[Path] | None:
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(argv, cwd=project, capture_output=True, check=False)
    except OSError:
        return None
    if done.returncode:
        return None
    return [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]


def _by_walking(project: Path) -> Iterator[Path]:
    for where, directories, names in os.walk(project):
        here = Path(where)
        directories[:] = [name for name in directories if not _is_left_out(here / name)]
        yield from ((here / name).relative_to(project) for name in names if not name.startswith("."))


def _is_left_out(path: Path) -> bool:
    name = path.name
    return name.startswith(".") or name in _LEFT_OUT or name.endswith(".egg-info") or (path / "pyvenv.cfg").exists()


def digest(project: Path) -> str:
    """What changes when the name, content or execute bit of a file of a project does; the same in every checkout."""
    listed = files(project)
    seen = [(os.fspath(path), *_seen(project / path)) for path in listed]
    by_look = hashlib.sha256(json.dumps(seen).encode("utf-8", "surrogateescape")).hexdigest()

    def read_all(part: Path) -> None:
        whole = hashlib.sha256()
        for path in listed:
            content = (project / path).read_bytes()
            executable = os.access(project / path, os.X_OK)
            whole.update(repr((os.fspath(path), executable, hashlib.sha256(content).hexdigest())).encode())
        part.write_text(whole.hexdigest(), encoding="ascii")

    return local_store.kept(f"sources/{by_look}", read_all).read_text(encoding="ascii")


def _seen(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino, stat.S_IMODE(found.st_mode)


def archive(project: Path, paths: Iterable[Path]) -> bytes:
    """Files of a project as a tar archive, without dates and owners: the same files make the same one."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for path in paths:
            content = (project / path).read_bytes()
            info = tarfile.TarInfo(path.as_posix())
            info.size = len(content)
            info.mode = 0o755 if os.access(project / path, os.X_OK) else 0o644
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(written.getvalue(), mtime=0)
