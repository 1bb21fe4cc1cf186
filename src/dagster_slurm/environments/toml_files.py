"""Files of TOML: manifests and locks of projects."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from dagster_slurm.errors import InvalidRequestError

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


@lru_cache(maxsize=8)
def _read(path: Path, written_ns: int, size: int) -> Mapping[str, Any]:
    del written_ns, size
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}") from error
