"""Sums of local files, remembered."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.staging import local_digests
from dagster_slurm.staging.local_digests import is_unchanged, sha256_of

LONG_AGO_NS = time.time_ns() - 3600 * 10**9


@pytest.fixture(autouse=True)
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, one by one."""
    monkeypatch.setenv("DAGSTER_SLURM_CACHE_DIR", str(tmp_path / "store"))
    seen: list[Path] = []
    read = local_digests._read

    def noted(path: Path, before: os.stat_result) -> str:
        seen.append(path)
        return read(path, before)

    monkeypatch.setattr(local_digests, "_read", noted)
    return seen


def file(tmp_path: Path, size: int, *, written_ns: int = LONG_AGO_NS, fill: bytes = b"x") -> Path:
    path = tmp_path / "file"
    path.write_bytes(fill * size)
    os.utime(path, ns=(written_ns, written_ns))
    return path


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, 3 << 20])
def test_it_is_the_sum(tmp_path: Path, size: int) -> None:
    assert sha256_of(file(tmp_path, size)) == hashlib.sha256(b"x" * size).hexdigest()


@pytest.mark.parametrize(
    ("size", "written_ns", "times"),
    [(2 << 20, LONG_AGO_NS, 1), (1000, LONG_AGO_NS, 2), (2 << 20, time.time_ns() + 3600 * 10**9, 2)],
    ids=["large", "small", "written just now"],
)
def test_it_is_read_so_often(tmp_path: Path, reads: list[Path], size: int, written_ns: int, times: int) -> None:
    path = file(tmp_path, size, written_ns=written_ns)
    assert sha256_of(path) == sha256_of(path)
    assert len(reads) == times


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    first = sha256_of(file(tmp_path, 2 << 20))
    second = sha256_of(file(tmp_path, 2 << 20, fill=b"y", written_ns=LONG_AGO_NS + 1))
    replaced = tmp_path / "new"
    replaced.write_bytes(b"z" * (2 << 20))
    os.utime(replaced, ns=(LONG_AGO_NS + 1, LONG_AGO_NS + 1))
    replaced.rename(tmp_path / "file")
    assert len({first, second, sha256_of(tmp_path / "file")}) == 3


def test_a_file_that_is_written_to_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, 10)
    before = path.stat()
    path.write_bytes(b"more than there was")
    with pytest.raises(InvalidRequestError, match="written to while it is read"):
        local_digests._read(path, before)


def test_unchanged(tmp_path: Path) -> None:
    path = file(tmp_path, 5)
    sha256 = hashlib.sha256(b"xxxxx").hexdigest()
    assert is_unchanged(path, 5, sha256)
    assert not is_unchanged(path, 5, "0" * 64)
    assert not is_unchanged(path, 6, sha256)
    assert not is_unchanged(tmp_path / "absent", 5, sha256)
    assert not is_unchanged(tmp_path, 5, sha256)
