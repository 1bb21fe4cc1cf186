"""What this machine keeps between runs: whole or not at all, and one clear error where it cannot be kept."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dagster_slurm.environments import local_store
from dagster_slurm.errors import EnvironmentBuildError, LocalStorageError


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_SLURM_CACHE_DIR", str(tmp_path / "store"))
    return tmp_path / "store"


def test_it_is_made_once(store: Path) -> None:
    made: list[Path] = []

    def make(part: Path) -> None:
        made.append(part)
        part.write_text("content")

    assert [local_store.kept("a/b", make).read_text() for _ in range(2)] == ["content", "content"]
    assert len(made) == 1
    assert [path.name for path in (store / "a").iterdir()] == ["b"]


def test_what_nobody_uses_is_removed(store: Path) -> None:
    def make(part: Path) -> None:
        part.write_text("content")

    for name in ("wheels/old", "wheels/used", "wheels/new"):
        local_store.kept(name, make)
    for name in ("old", "used"):
        os.utime(store / "wheels" / name, (0, 0))
    local_store.kept("wheels/used", make)
    local_store.sweep()
    assert sorted(path.name for path in (store / "wheels").iterdir()) == ["new", "used"]


def test_what_somebody_works_with_stays(store: Path) -> None:
    """What is extracted there has the dates of its archive; what was left by a dead process is old as a whole."""
    with local_store.workplace() as work:
        (work / "old").touch()
        os.utime(work / "old", (0, 0))
        dead = store / "work" / "pack-dead"
        dead.mkdir()
        os.utime(dead, (0, 0))
        local_store.sweep()
        assert (work / "old").exists()
        assert not dead.exists()
    assert list((store / "work").iterdir()) == []


def test_content_is_replaced(store: Path) -> None:
    for text in ("damaged", "whole"):
        with local_store.workplace() as work:
            (work / "file").write_text(text)
            local_store.store(work / "file", "digest")
    found = local_store.stored("digest")
    assert found and found.read_text() == "whole"
    assert local_store.stored("another") is None


def test_a_file_of_a_project_that_cannot_be_read_is_no_fault_of_the_store(store: Path) -> None:
    def make(part: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/project/secret.py")

    with pytest.raises(PermissionError, match=r"/project/secret\.py"):
        local_store.kept("a/b", make)
    with pytest.raises(PermissionError, match=r"/project/secret\.py"), local_store.workplace() as work:
        make(work)

    def make_here(part: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(part))

    with pytest.raises(LocalStorageError, match=f"Cannot write to {store}/a: Permission denied"):
        local_store.kept("a/b", make_here)


def test_files_are_there_once(store: Path, tmp_path: Path) -> None:
    with local_store.workplace() as work:
        (work / "file").write_text("content")
        local_store.store(work / "file", "digest")
    other = store / "copy"
    other.write_text("content")
    local_store.share(other, "digest")
    local_store.share(other, "another")
    found = local_store.stored("digest")
    assert found and other.samefile(found)


def test_what_fails_leaves_nothing(store: Path) -> None:
    def make(part: Path) -> None:
        part.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(LocalStorageError, match=r"No space left on device") as caught:
        local_store.kept("a/b", make)
    assert "DAGSTER_SLURM_CACHE_DIR" in str(caught.value.hint)
    assert list((store / "a").iterdir()) == []


def test_a_directory_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_SLURM_CACHE_DIR", "/proc/nothing")
    with pytest.raises(LocalStorageError, match=r"Cannot write to /proc/nothing"):
        local_store.kept("a/b", lambda part: None)
    with pytest.raises(LocalStorageError), local_store.one_at_a_time("x", lambda: None):
        pass


def test_content_of_another_sum(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="is not what the lock names"):
        local_store.checked([b"content"], "0" * 64, tmp_path / "file", what="a wheel")
