"""Directories for tests of storage that fails: one that is soon full, one that cannot be written."""

from __future__ import annotations

import pwd
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster_slurm_sandbox.programs import run


@contextmanager
def small_filesystem(home: Path, user: str, size_mib: int) -> Iterator[Path]:
    """Mount a tmpfs below the home, owned by the user, and unmount it after the block.

    Args:
        home: The user's home; in a sandbox it passes mounts on to the nodes.
        user: Whose it is.
        size_mib: Its size, in MiB.
    """
    entry = pwd.getpwnam(user)
    path = Path(tempfile.mkdtemp(prefix="small-", dir=home))
    path.chmod(0o755)
    options = f"size={size_mib}m,mode=0755,uid={entry.pw_uid},gid={entry.pw_gid}"
    run(["mount", "-t", "tmpfs", "-o", options, "dagster-slurm-sandbox", str(path)])
    try:
        yield path
    finally:
        # Lazily: a job of a failed test may still stand in it.
        run(["umount", "--lazy", str(path)])
        path.rmdir()


@contextmanager
def unwritable_directory(home: Path) -> Iterator[Path]:
    """A directory below the home that the user can read and not write, gone after the block."""
    path = Path(tempfile.mkdtemp(prefix="unwritable-", dir=home))
    path.chmod(0o755)
    try:
        yield path
    finally:
        path.rmdir()
