"""Files of tests, and that the cluster's user, too, can reach them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "dst-"
# Of sessions that have ended, for those who look at what a test has left.
_KEPT = 2


def session_directory() -> Path:
    """The directory of this session's `tmp_path`s; those of earlier ones are removed, but for the last.

    Where pytest puts them itself, the next session of the same user takes the rights away that `let_everybody_in` gave.
    """
    root = Path(tempfile.gettempdir())
    ended = [path for path in root.glob(f"{PREFIX}*") if not Path("/proc", path.name.removeprefix(PREFIX)).exists()]
    for path in sorted(ended, key=lambda each: each.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
    return root / f"{PREFIX}{os.getpid()}"


def let_everybody_in(directory: Path) -> None:
    """The cluster's user is to reach what a test has made below a private directory."""
    for path in (directory, *directory.parents):
        if path.stat().st_mode & 0o055 != 0o055:
            path.chmod(path.stat().st_mode | 0o055)
