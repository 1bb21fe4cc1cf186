"""SHA-256 of files of this machine, remembered for large ones: a second run does not read 10 GB again."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from dagster_slurm.environments import local_store
from dagster_slurm.errors import InvalidRequestError

# To find what is remembered takes longer than to read less.
_SMALL_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20
# A file that is written to again within one tick of the file system's clock keeps its time; 2 s is the longest (FAT).
_FRESH_NS = 2_000_000_000


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal.

    Raises:
        InvalidRequestError: It is written to meanwhile.
    """
    status = path.stat()
    is_fresh = time.time_ns() - status.st_mtime_ns < _FRESH_NS
    if status.st_size < _SMALL_BYTES or is_fresh:
        return _read(path, status)
    version = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_dev}\0{status.st_ino}"
    name = hashlib.sha256(os.fsencode(version)).hexdigest()
    remembered = local_store.kept(f"digests/{name[:2]}/{name}", lambda part: _write(part, _read(path, status)))
    return remembered.read_text(encoding="ascii")


def is_unchanged(path: Path, size_bytes: int, sha256: str) -> bool:
    """Whether a file is there, and has this content."""
    return path.is_file() and path.stat().st_size == size_bytes and sha256_of(path) == sha256


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")


def _read(path: Path, before: os.stat_result) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
        after = os.fstat(file.fileno())
    if (after.st_size, after.st_mtime_ns, after.st_ino) != (before.st_size, before.st_mtime_ns, before.st_ino):
        raise InvalidRequestError(f"The file {path} is written to while it is read", hint="Run when it is finished.")
    return digest.hexdigest()
