"""ranks_hook.sh: what ranks that were killed leave in the memory that they share, and what others have there."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_slurm.transport.shell import shell_file

HOOK = shell_file("dagster_slurm.launchers", "ranks_hook.sh")
MEMORY = Path("/dev/shm")  # what is looked at
SIZE = 4096


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Path]:
    """The directory of a task that has begun; afterwards nothing of the test's is left."""
    (tmp_path / "begun").touch()
    yield tmp_path
    (tmp_path / "enough").touch()  # also where the test has failed
    for path in MEMORY.glob(f"mpich_shm_{os.getpid()}_*"):
        path.unlink()


def clean(begun: Path, calls: str = "ranks_clean") -> subprocess.Popen[str]:
    return subprocess.Popen(["bash", "-c", f"{HOOK}\nnodes_tmp=$1\n{calls}", "bash", str(begun)], text=True)


def shared(name: str) -> tuple[Path, int]:
    path = MEMORY / f"mpich_shm_{os.getpid()}_{name}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(descriptor, SIZE)
    return path, descriptor


def test_what_no_process_has_is_taken_away_and_nothing_else(begun: Path) -> None:
    time.sleep(0.02)  # as coarse as the times of files are
    before, descriptor = shared("before")
    os.close(descriptor)
    os.utime(before, (1, 1))
    left, descriptor = shared("left")
    os.close(descriptor)
    opened, of_opened = shared("opened")
    mapped, descriptor = shared("mapped")
    with contextlib.closing(mmap.mmap(descriptor, SIZE)):
        os.close(descriptor)
        assert clean(begun).wait() == 0
        assert [path.exists() for path in (before, left, opened, mapped)] == [True, False, True, True]
    os.close(of_opened)
    assert clean(begun).wait() == 0
    assert [path.exists() for path in (before, opened, mapped)] == [True, False, False]


def test_a_world_that_begins_meanwhile_keeps_its_memory(begun: Path) -> None:
    """Of another job on the node: its ranks open the file by its name, which the first has made."""
    time.sleep(0.02)
    cleaning = clean(begun, 'until [ -e "$nodes_tmp/enough" ]; do ranks_clean; done')
    for number in range(60):
        path, descriptor = shared(f"world{number}")
        time.sleep(0.004 * (number % 5))
        with contextlib.closing(mmap.mmap(descriptor, SIZE)):
            os.close(descriptor)
            time.sleep(0.0005 * (number % 8))
            path.unlink()  # there is one still
    assert cleaning.poll() is None
    (begun / "enough").touch()
    assert cleaning.wait() == 0
