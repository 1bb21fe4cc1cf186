"""The memory of a payload on this machine, by a /proc of the tests: nobody can have the kernel say what he likes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dagster_slurm.work.memory_here import MemoryHere

ROOT = 100
MIB = 1024  # in KiB


def process(
    parent: int, own: int, *, files: int = 10, peak: int | None = None, shared: int = 0, session: int = ROOT
) -> dict[str, int]:
    """What there is of a process, in MiB."""
    now = own + shared + files
    return {
        "PPid": parent,
        "NSsid": session,
        "VmSize": (now + own) * MIB,
        "VmHWM": max(now, peak or 0) * MIB,
        "RssAnon": own * MIB,
        "RssFile": files * MIB,
        "RssShmem": shared * MIB,
    }


Table = Mapping[int, Mapping[str, int]]


def lay(proc: Path, table: Table, shares: Mapping[int, int] | None = None) -> None:
    """Write it anew: `shares` are of `smaps_rollup`, in MiB."""
    for each in proc.glob("[0-9]*"):
        (each / "status").unlink()
        (each / "smaps_rollup").unlink(missing_ok=True)
    for pid, figures in table.items():
        children = [str(child) for child, of in table.items() if of["PPid"] == pid]
        (proc / f"{pid}/task/{pid}").mkdir(parents=True, exist_ok=True)
        (proc / f"{pid}/task/{pid}/children").write_text("".join(f"{child} " for child in children))
        lines = "".join(f"{name}:\t{value} kB\n" for name, value in figures.items())
        (proc / f"{pid}/status").write_text(f"Name:\tRssAnon: 5\n{lines}")
        if shares and pid in shares:
            (proc / f"{pid}/smaps_rollup").write_text(f"Pss_Anon:  {shares[pid] * MIB} kB\nPss_Shmem:  0 kB\n")


def most_mib(proc: Path, looks: Sequence[Table], shares: Mapping[int, int] | None = None) -> float | None:
    """What is found in so many looks, each without its pause."""
    memory = MemoryHere(ROOT, proc)
    for table in looks:
        lay(proc, table, shares)
        memory._due = 0.0
        memory.look()
    return None if memory.most_bytes is None else memory.most_bytes / (1 << 20)


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        # The kernel keeps the peak of a process.
        ([{ROOT: process(1, 20, peak=160)}], 150),
        ([{ROOT: process(1, 150)}, {ROOT: process(1, 5, peak=10)}], 150),
        # A file of 1 GiB that is mapped, and one that was.
        ([{ROOT: process(1, 100, files=1024, peak=1124)}], 100),
        ([{ROOT: process(1, 100, files=1024)}, {ROOT: process(1, 100, peak=1124)}], 100),
        ([{ROOT: process(1, 50, shared=60)}], 110),
        # Of a session of its own, and started by one that has ended since.
        ([{ROOT: process(1, 1), 101: process(ROOT, 80, session=101)}], 80),
        ([{ROOT: process(1, 1), 101: process(ROOT, 1)}, {ROOT: process(1, 1), 101: process(1, 90)}], 90),
        # Another one with the number of one that has ended.
        ([{ROOT: process(1, 1), 101: process(ROOT, 2)}, {ROOT: process(1, 1), 101: process(1, 90, session=7)}], 2),
        # Started a moment ago, and still in its parent's memory.
        ([{ROOT: process(1, 100), 101: process(ROOT, 100)}] * 3, 100),
        ([{}], None),
        ([], None),
    ],
)
def test_memory_is_that_of_its_processes_and_not_of_files(
    tmp_path: Path, looks: Sequence[Table], expected: int | None
) -> None:
    assert most_mib(tmp_path, looks) == expected


FORKED = {ROOT: process(1, 100), **{pid: process(ROOT, 101, files=2) for pid in (101, 102, 103)}}


@pytest.mark.parametrize(
    ("looks", "shares", "expected"),
    [
        # What they share counts once.
        (2, {ROOT: 25, 101: 26, 102: 26, 103: 26}, 103),
        # One look alone may have found pages in the moment in which they became shared.
        (1, {ROOT: 25, 101: 26, 102: 26, 103: 26}, 101),
        (1, {ROOT: 100, 101: 26, 102: 26, 103: 26}, None),
        # Nobody may look at the memory of another user, and the sum is none.
        (2, {ROOT: 25, 101: 26}, 101),
    ],
)
def test_what_several_have_is_what_is_divided_among_them(
    tmp_path: Path, looks: int, shares: Mapping[int, int], expected: int | None
) -> None:
    assert most_mib(tmp_path, [FORKED] * looks, shares) == expected


def test_where_the_kernel_does_not_tell_what_is_shared_the_figure_is_missing(tmp_path: Path) -> None:
    """Linux before 5.3."""
    lay(tmp_path, FORKED)
    for pid in FORKED:
        (tmp_path / f"{pid}/smaps_rollup").write_text("Pss: 5 kB\n")
    memory = MemoryHere(ROOT, tmp_path)
    memory.look()
    assert memory.most_bytes is None


def test_what_is_there_after_a_while_counts_however_small_it_was_at_first(tmp_path: Path) -> None:
    memory = MemoryHere(ROOT, tmp_path)
    grown = {pid: process(ROOT, 50, files=2) for pid in (101, 102, 103)}
    for own, share in ((5, 5), (50, 50), (50, 50)):
        table = {ROOT: process(1, 5), **{pid: process(ROOT, own, files=2) for pid in grown}}
        lay(tmp_path, table, {ROOT: 5, **dict.fromkeys(grown, share)})
        memory._due = 0.0
        memory.look()
    assert memory.most_bytes == 155 << 20


def test_what_is_found_once_is_looked_for_again_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each two looks the second one, since a payload may end before a look that costs much is due again."""
    seconds = itertools.count()
    monkeypatch.setattr("time.thread_time", lambda: float(next(seconds)))
    memory = MemoryHere(ROOT, tmp_path)
    is_soon = []
    for share in (50, 60, 70, 80, 80):
        lay(
            tmp_path,
            {ROOT: process(1, 5), **{pid: process(ROOT, share) for pid in (101, 102)}},
            {101: share, 102: share},
        )
        memory._due = 0.0
        memory.look()
        is_soon.append(memory._due - time.monotonic() < 1)
    assert is_soon == [True, False, True, False, False]


def test_where_there_is_no_proc_the_figure_is_missing(tmp_path: Path) -> None:
    """macOS."""
    assert most_mib(tmp_path / "nowhere", [{}]) is None


def test_between_two_looks_is_a_pause(tmp_path: Path) -> None:
    memory = MemoryHere(ROOT, tmp_path)
    for own in (20, 30):
        lay(tmp_path, {ROOT: process(1, own)})
        memory.look()
    assert memory.most_bytes == 20 << 20
