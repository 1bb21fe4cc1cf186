"""Outputs: fetched whole or not at all, gone on with, left where they are; and results that stay."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dagster_slurm.errors import LocalStorageError, OutputNotFoundError, TransferCorruptedError
from dagster_slurm.staging import collect
from dagster_slurm.staging.collect import Fetch, RemoteFile
from dagster_slurm.transport import LocalTransport
from dagster_slurm.transport.shell_transport import ShellTransport
from tests.support import forked

from .conftest import Far

pytestmark = pytest.mark.process

LARGE_BYTES = 5 << 20


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the pieces that were asked for, in small ones."""
    seen: list[int] = []
    read_from = ShellTransport.read_from

    def noted(self: ShellTransport, path: str, offset: int, max_bytes: int) -> bytes:
        seen.append(max_bytes)
        return read_from(self, path, offset, max_bytes)

    monkeypatch.setattr(ShellTransport, "read_from", noted)
    monkeypatch.setattr(collect.Pacer, "piece_bytes", 1 << 18)
    return seen


@pytest.fixture
def large(far: Far) -> str:
    """A large output; its SHA-256."""
    far.shell(f"mkdir -p runs/r/k/0/work; head -c {LARGE_BYTES} /dev/urandom >runs/r/k/0/work/large.bin")
    return far.shell("sha256sum <runs/r/k/0/work/large.bin").split()[0]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def test_small_and_large_and_odd_ones(far: Far, large: str, to: Path) -> None:
    far.left(out__a_dot_csv="1\n", out__deep__b_dot_csv="2\n", empty="")
    far.shell("cd runs/r/k/0/work; echo 3 >'out/new\nline \\ $(touch x) ä.csv'; echo 4 >./-n; ln -s out/a.csv link.csv")
    collected = far.collect(to, outputs=["out/**/*.csv", "*.bin", "empty", "-n", "link.csv"])
    odd = "new\nline \\ $(touch x) ä.csv"
    assert names(to) == sorted(["-n", "empty", "large.bin", "link.csv", "out/a.csv", "out/deep/b.csv", f"out/{odd}"])
    assert (to / "out" / odd).read_text() == "3\n"
    assert (to / "link.csv").read_text() == "1\n"
    assert sha256(to / "large.bin") == large
    assert sorted(collected.outputs) == sorted(to / name for name in names(to))


def test_each_glob_to_its_own_directory(far: Far, to: Path) -> None:
    far.left(out__a_dot_csv="1", log="2")
    far.collect(to, outputs={"out/*.csv": to / "x", "log": to / "y"})
    assert names(to) == ["x/a.csv", "y/log"]


def test_many_small_files_in_few_round_trips(far: Far, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far.shell("mkdir -p runs/r/k/0/work/many; cd runs/r/k/0/work/many; for n in $(seq 1200); do echo $n >$n.txt; done")
    asked: list[str] = []
    run = ShellTransport.run

    def noted(self: ShellTransport, script: str, *args: object, **named: object) -> object:
        asked.append(script)
        return run(self, script, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ShellTransport, "run", noted)
    assert len(far.collect(to, outputs=["many"]).outputs) == 1200
    assert (to / "many/777.txt").read_text() == "777\n"
    assert len(asked) == 5


def test_what_is_here_is_not_fetched_again(far: Far, large: str, to: Path, reads: list[int]) -> None:
    far.left(a="1", b="2")
    far.collect(to, outputs=["*"])
    pieces, before = len(reads), (to / "a").stat()
    (to / "b").write_text("x")
    far.collect(to, outputs=["*"])
    assert len(reads) == pieces
    assert ((to / "a").stat().st_ino, (to / "b").read_text()) == (before.st_ino, "2")
    assert "3 files, 1 of them fetched" in far.told[-1]


@pytest.mark.parametrize("arrived", ["the beginning", "too much", "something else"])
def test_a_partial_file_is_gone_on_with_or_thrown_away(
    far: Far, large: str, to: Path, reads: list[int], arrived: str
) -> None:
    whole = far.cluster.transport.read_from(f"{far.work}/large.bin", 0, LARGE_BYTES)
    content = {"the beginning": whole[:3_000_000], "too much": whole + b"x", "something else": os.urandom(1000)}[
        arrived
    ]
    file = RemoteFile("large.bin", LARGE_BYTES, large, to / "large.bin")
    to.mkdir()
    file.partial.write_bytes(content)
    del reads[:]
    collector = far.collector(outputs=["large.bin"])
    if arrived == "the beginning":
        collector.collect(outputs_dir=to, result="x")
        assert sum(reads) == LARGE_BYTES - 3_000_000
    else:
        with pytest.raises(TransferCorruptedError, match="not what is there"):
            collector.collect(outputs_dir=to, result="x")
        assert names(to) == []
        collector.collect(outputs_dir=to, result="x")
    assert sha256(to / "large.bin") == large
    assert names(to) == ["large.bin"]


@pytest.mark.parametrize("name", ["large.bin", "small"])
def test_a_file_that_is_cut_off_on_the_way_does_not_appear(far: Far, large: str, to: Path, name: str) -> None:
    far.left(small="0123456789")
    size = LARGE_BYTES if name == "large.bin" else 10
    digest = far.shell(f"sha256sum <runs/r/k/0/work/{name}").split()[0]
    far.shell(f"truncate -s {size - 3} runs/r/k/0/work/{name}")
    fetch = Fetch(far.cluster.transport, far.work, far.told.append)
    with pytest.raises(TransferCorruptedError):
        fetch.fetch([RemoteFile(name, size, digest, to / name)])
    assert not to.exists() or names(to) == []


FETCH = """
import sys, time
from pathlib import Path
from dagster_slurm.staging import collect
from dagster_slurm.staging.collect import Fetch, RemoteFile
from dagster_slurm.transport import LocalTransport
collect.Pacer.piece_bytes = 1 << 18
arrived = Fetch._arrived
def slow(self, size):
    print("piece", flush=True)
    time.sleep(0.05)
    arrived(self, size)
Fetch._arrived = slow
root, name, size, sha256, to = sys.argv[1:]
Fetch(LocalTransport(), root, print).fetch([RemoteFile(name, int(size), sha256, Path(to))])
"""


def test_a_fetch_whose_process_was_killed_is_gone_on_with(tmp_path: Path, reads: list[int]) -> None:
    source, to = tmp_path / "large.bin", tmp_path / "here/large.bin"
    source.write_bytes(os.urandom(LARGE_BYTES))
    argv = [str(tmp_path), source.name, str(LARGE_BYTES), sha256(source), str(to)]
    process = forked.start([sys.executable, "-c", FETCH, *argv], stdout=subprocess.PIPE)
    assert process.stdout
    for _ in range(8):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    file = RemoteFile(source.name, LARGE_BYTES, sha256(source), to)
    arrived = file.partial.stat().st_size
    assert 0 < arrived < LARGE_BYTES
    assert names(to.parent) == [file.partial.name]
    transport = LocalTransport()
    Fetch(transport, str(tmp_path), print).fetch([file])
    transport.close()
    assert sum(reads) == LARGE_BYTES - arrived
    assert names(to.parent) == ["large.bin"]
    assert sha256(to) == sha256(source)


def test_progress_is_told(far: Far, large: str, to: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagster_slurm.transport.progress._FIRST_SECONDS", 0.0)
    far.collect(to, outputs=["large.bin"])
    assert any("Outputs: fetched " in line and " of 5 MB (" in line for line in far.told), far.told


def test_a_directory_that_cannot_be_written_is_told(far: Far, to: Path) -> None:
    far.left(a="1")
    to.write_text("a file")
    with pytest.raises(LocalStorageError, match="Cannot write"):
        far.collect(to, outputs=["a"])


def test_a_missing_output_names_what_there_is(far: Far, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "_PAUSE_SECONDS", 0.01)
    far.left(a_dot_csv="1")
    with pytest.raises(
        OutputNotFoundError, match=r"no file matches the output '\*.nc'. There is: a.csv. Kept: .*/work"
    ):
        far.collect(to, outputs=["*.csv", "*.nc"])
    assert not to.exists()


def test_an_output_that_shows_late_is_waited_for(far: Far, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "time", SimpleNamespace(sleep=lambda _: far.left(late="1")))
    assert far.collect(to, outputs=["late"]).outputs == (to / "late",)


class TestResults:
    """What stays on the cluster."""

    def test_one_copy_read_only_and_as_a_whole(self, far: Far, large: str, to: Path) -> None:
        far.left(waves__1__x_dot_nc="x", waves__2__y_dot_nc="y", note="n")
        far.shell("ln -s 1/x.nc runs/r/k/0/work/waves/newest")
        kept = far.collect(to, keep_on_cluster=["waves", "large.bin"], outputs=["note"]).kept
        assert {name: path.path for name, path in kept.items()} == {
            name: f"{far.base}/results/asset/run.0/{name}" for name in ("waves", "large.bin")
        }
        assert {path.host for path in kept.values()} == {far.cluster.host}
        assert names(to) == ["note"]
        # The same file, by another name, until the run directory goes.
        assert far.shell("stat -c '%h %a' results/asset/run.0/large.bin").strip() == "2 400"
        far.shell("rm -rf runs")
        assert far.shell("cat results/asset/run.0/waves/newest results/asset/run.0/waves/2/y.nc") == "xy"
        assert far.shell("ls -A results/asset").split() == ["run.0"]

    def test_again_it_is_the_same_and_what_is_new_is_added(self, far: Far, to: Path) -> None:
        far.left(a="first", b__c="b")
        first = far.collect(to, keep_on_cluster=["a"]).kept
        far.shell("cd runs/r/k/0/work; rm -f a; echo second >a")
        assert far.collect(to, keep_on_cluster=["a"]).kept == first
        again = far.collect(to, keep_on_cluster=["a", "b/*"]).kept
        assert set(again) == {"a", "b/c"}
        assert far.shell("cat results/asset/run.0/a results/asset/run.0/b/c") == "firstb"
        assert far.shell("ls -A results/asset").split() == ["run.0"]

    def test_what_a_killed_one_has_begun_does_not_count(self, far: Far, to: Path) -> None:
        far.left(a="1")
        far.shell("mkdir -p results/asset/.part.run.0.1; echo half >results/asset/.part.run.0.1/a")
        far.collect(to, keep_on_cluster=["a"])
        assert far.shell("cat results/asset/run.0/a") == "1"


def test_what_nobody_has_gone_on_with_is_removed(far: Far, to: Path) -> None:
    far.left(a="1")
    to.mkdir()
    old, young = to / ".dagster-slurm.x.y.part", to / ".dagster-slurm.x.z.part"
    old.touch()
    young.touch()
    os.utime(old, (1e9, 1e9))
    far.collect(to, outputs=["a"])
    assert names(to) == [young.name, "a"]
