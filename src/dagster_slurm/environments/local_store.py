"""What this machine keeps between runs: packages that were fetched or built, and locks. Safe to delete at any time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from dagster_slurm.environments.recipe import last_lines
from dagster_slurm.errors import EnvironmentBuildError, LocalStorageError
from dagster_slurm.transport.pool import make_own

_LOOK_SECONDS = 0.2
_UNUSED_SECONDS = 60 * 86400.0
_WORK_SECONDS = 86400.0
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_NO_RIGHT = frozenset({errno.EACCES, errno.EPERM})
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded|os error (?:28|122)", re.IGNORECASE)


def directory() -> Path:
    """Where it lies: `DAGSTER_SLURM_CACHE_DIR`, or `dagster-slurm` below `XDG_CACHE_HOME` (`~/.cache`)."""
    given = os.environ.get("DAGSTER_SLURM_CACHE_DIR")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dagster-slurm"


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """A file of that name, made if it is not there: whole or not at all, whatever dies and however many make it.

    Raises:
        LocalStorageError: It cannot be written.
    """
    path = directory() / name
    with suppress(OSError):
        # When it was used last.
        os.utime(path)
        return path
    _make(path.parent)
    part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        make(part)
        part.replace(path)
    except OSError as error:
        if _is_about_the_store(error):
            raise unusable(path.parent, error) from error
        raise
    finally:
        part.unlink(missing_ok=True)
    return path


def stored(sha256: str) -> Path | None:
    """The file with that content, which counts as used; None if it is not here."""
    path = directory() / "content" / sha256
    with suppress(OSError):
        os.utime(path)
        return path
    return None


def store(path: Path, sha256: str) -> None:
    """Move a file of a workplace to where it is kept, under the SHA-256 of its content.

    Raises:
        LocalStorageError: It cannot be written.
    """
    target = directory() / "content" / sha256
    _make(target.parent)
    try:
        # In the place of one that is there: that may have been damaged since.
        path.replace(target)
        os.utime(target)
    except OSError as error:
        raise unusable(target.parent, error) from error


def share(path: Path, sha256: str) -> None:
    """Have a file of this file system be the same one as that with its content here, so that it is there once."""
    one = stored(sha256)
    if one is None or one.samefile(path):
        return
    part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    # Without links it is there twice, as on file systems that have none.
    with suppress(OSError):
        os.link(one, part)
        part.replace(path)


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory for what is not kept: here, since /tmp is small, or memory, on some machines.

    Raises:
        LocalStorageError: It cannot be made, or there is no space left in it.
    """
    parent = directory() / "work"
    _make(parent)
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix="pack-") as path:
            yield Path(path).resolve()
    except OSError as error:
        if _is_about_the_store(error):
            raise unusable(parent, error) from error
        raise


def _make(path: Path) -> None:
    try:
        make_own(path)
    except OSError as error:
        raise unusable(path, error) from error


def _is_about_the_store(error: OSError) -> bool:
    """Whether it is the store that cannot be written to, and not a file of a project that cannot be read."""
    is_here = str(error.filename or "").startswith((os.fspath(directory()), os.path.realpath(directory())))
    return error.errno in _NO_ROOM or (error.errno in _NO_RIGHT and is_here)


def unusable(path: Path, error: OSError) -> LocalStorageError:
    """The error for a directory of this machine that cannot be written to."""
    return LocalStorageError(
        f"Cannot write to {path}: {error.strerror or error}", hint="DAGSTER_SLURM_CACHE_DIR names another directory."
    )


def sweep() -> None:
    """Remove what was not used for two months, and what a process that died has left in a workplace."""
    for path in (directory() / "work").glob("*"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _WORK_SECONDS:
                shutil.rmtree(path)
    oldest = time.time() - _UNUSED_SECONDS
    for kind in (path for path in directory().glob("*") if path.name != "work"):
        for path in kind.rglob("*"):
            # Another process may be sweeping, too.
            with suppress(OSError):
                if path.is_file() and path.stat().st_mtime < oldest:
                    path.unlink()


def forget(name: str) -> None:
    """Remove a file, if it is there.

    Raises:
        LocalStorageError: It cannot be removed.
    """
    path = directory() / name
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unusable(path.parent, error) from error


def no_space(doing: str, work: Path, said: str, command: str) -> LocalStorageError | None:
    """The error for a program that failed since a file system of this machine is full; None if that is not why.

    Args:
        doing: What it was doing, behind "for".
        work: Where its temporary files lie.
        said: What it said.
        command: How it was called, without secrets.
    """
    if not _NO_SPACE.search(said):
        return None
    return LocalStorageError(
        f"There is no space left for {doing} in {work}:\n{last_lines(said)}",
        hint="Make room in it, or name another directory with DAGSTER_SLURM_CACHE_DIR.",
        command=command,
    )


def checked(blocks: Iterable[bytes], sha256: str, path: Path, *, what: str) -> None:
    """Write content that has to have a certain SHA-256.

    Raises:
        EnvironmentBuildError: It has another one.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in blocks:
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != sha256:
        raise not_as_locked(what, digest.hexdigest(), sha256)


def not_as_locked(what: str, found: str, sha256: str) -> EnvironmentBuildError:
    """The error for content that has another SHA-256."""
    return EnvironmentBuildError(
        f"{what} is not what the lock names: its SHA-256 is {found}, and not {sha256}",
        hint="Look at where it comes from, or lock anew.",
    )


@contextmanager
def one_at_a_time(name: str, waits: Callable[[], None]) -> Iterator[None]:
    """Let one process of this machine in after the other; the system lets go of what a dead one held.

    Args:
        name: Of what is done.
        waits: Called once if another process is at it.

    Raises:
        LocalStorageError: The lock cannot be written.
    """
    path = directory() / "locks" / hashlib.sha256(name.encode()).hexdigest()[:32]
    _make(path.parent)
    told = False
    try:
        opened = path.open("wb")
    except OSError as error:
        raise unusable(path.parent, error) from error
    with opened as file:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if not told:
                told = True
                waits()
            time.sleep(_LOOK_SECONDS)
        yield
