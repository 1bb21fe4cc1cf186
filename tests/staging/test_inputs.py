"""Inputs: sent once, whole or not at all, and not to be changed by a payload."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import InvalidRequestError, TransferCorruptedError
from dagster_slurm.staging import DataOptions, RemotePath, local_digests, plan_staging
from dagster_slurm.staging.store import InputStore
from dagster_slurm.transport import LocalTransport
from dagster_slurm.transport.upload import Piece
from tests.support import forked

from .conftest import Far

pytestmark = pytest.mark.process

LARGE_BYTES = 6 << 20


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    (directory / "many/deep").mkdir(parents=True)
    for number in range(40):
        (directory / f"many/deep/{number}.csv").write_text(f"{number}\n")
    (directory / "large.bin").write_bytes(os.urandom(LARGE_BYTES))
    (directory / "empty").touch()
    return directory


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_they_lie_under_their_names(far: Far, data: Path) -> None:
    odd = data / "two words $(touch x) ä"
    odd.write_text("odd")
    far.provide({"m": data / "many", "large.bin": data / "large.bin", "a/empty": data / "empty", f"o/{odd.name}": odd})
    assert far.shell(f"cd {far.work[len(far.base) + 1 :]}; cat m/deep/*.csv | wc -l; sha256sum <large.bin").split()[
        :2
    ] == [
        "40",
        sha256(data / "large.bin"),
    ]
    assert far.shell("cat runs/r/k/0/work/o/*; stat -c %s runs/r/k/0/work/a/empty") == "odd0\n"
    # As files, not as links: whoever resolves the path finds the name.
    assert far.shell("find runs -type l | wc -l").strip() == "0"
    assert far.shell("stat -c %a data data/[0-9a-f]* | sort | uniq -c").split() == ["43", "400", "1", "700"]
    assert far.shell("ls -A data/.incoming") == ""


def test_what_is_there_is_not_sent_again(far: Far, data: Path, tmp_path: Path) -> None:
    far.provide([data / "many", data / "large.bin"])
    assert len(far.sent) == 2
    copy = tmp_path / "copy.bin"
    copy.write_bytes((data / "large.bin").read_bytes())
    (data / "many/deep/new.csv").write_text("new")
    far.provide({"x": data / "many", "other name": copy})
    assert len(far.sent) == 3
    assert "42 files, 1 of them uploaded (3 bytes)" in far.told[-1]


def test_it_may_be_done_again_while_the_job_runs(far: Far, data: Path) -> None:
    store = far.store([data / "empty", data / "many"])
    store.upload()
    store.place(far.work)
    far.shell("rm runs/r/k/0/work/empty && echo mine >runs/r/k/0/work/empty")
    store.place(far.work)
    assert far.shell("cat runs/r/k/0/work/empty") == "mine\n"


@pytest.mark.cluster
def test_a_payload_cannot_write_to_them(far: Far, data: Path) -> None:
    if far.shell("id -u").strip() == "0":
        pytest.skip("root may write to everything")
    far.provide([data / "many"])
    assert "Permission denied" in far.shell("(echo x >runs/r/k/0/work/many/deep/1.csv) 2>&1 || :")
    assert far.shell("cat runs/r/k/0/work/many/deep/1.csv") == "1\n"


@pytest.mark.parametrize("damage", ["truncate -s 1000", "rm -f"])
def test_what_was_damaged_there_is_sent_again(far: Far, data: Path, damage: str) -> None:
    far.provide([data / "large.bin"])
    digest = sha256(data / "large.bin")
    far.shell(f"chmod 600 data/{digest}; {damage} data/{digest}; rm -rf runs")
    far.provide([data / "large.bin"])
    assert far.shell("sha256sum <runs/r/k/0/work/large.bin").split()[0] == digest


@pytest.mark.parametrize("name", ["large.bin", "many/deep/7.csv"])
def test_a_file_that_changes_while_it_is_sent_never_becomes_content(far: Far, data: Path, name: str) -> None:
    store = far.store([data / name])
    promised = sha256(data / name)
    assert store._contents
    (data / name).write_bytes(b"another" * 1_000_000 if name == "large.bin" else b"8\n")
    with pytest.raises(InvalidRequestError, match="changed while it was sent"):
        store.upload()
    assert far.shell(f"ls -A data/{promised} 2>/dev/null || :; ls -A data/.incoming") == ""


def test_what_arrives_damaged_never_becomes_content(far: Far, data: Path) -> None:
    """As if the far end had lost a byte that no checksum of the way has seen."""
    store = far.store([data / "many/deep/7.csv"])
    digest = sha256(data / "many/deep/7.csv")
    far.shell(f"mkdir -p data/.incoming/batch; printf broken >data/.incoming/batch/{digest}")
    (content,) = store._contents.values()
    with pytest.raises(TransferCorruptedError, match="not what was sent"):
        store._store.store("batch", [content])
    assert far.shell("ls -A data data/.incoming").split() == ["data:", ".incoming", "data/.incoming:"]
    store.upload()
    store.place(far.work)


def test_what_disappears_between_is_sent_again(far: Far, data: Path) -> None:
    store = far.store([data / "many"])
    store.upload()
    far.shell("rm -f data/[0-9a-f]*")
    with pytest.raises(TransferCorruptedError, match="removed meanwhile"):
        store.place(far.work)
    store.place(far.work)
    assert far.shell("cat runs/r/k/0/work/many/deep/*.csv | wc -l").strip() == "40"


def test_paths_that_are_there_are_linked(far: Far, data: Path) -> None:
    far.shell("mkdir -p 'results/two words'; echo w >'results/two words/w.nc'")
    waves = RemotePath(f"{far.base}/results/two words", far.cluster.host)
    far.provide({"in/waves": waves, "one.nc": waves / "w.nc", "empty": data / "empty"})
    assert far.shell("readlink runs/r/k/0/work/in/waves; cat runs/r/k/0/work/in/waves/w.nc runs/r/k/0/work/one.nc") == (
        f"{waves.path}\nw\nw\n"
    )


def test_a_path_that_is_not_there_is_refused_before_anything_is_sent(far: Far, data: Path) -> None:
    with pytest.raises(InvalidRequestError, match="There is no /nowhere/x on the cluster"):
        far.provide({"x": RemotePath("/nowhere/x"), "large.bin": data / "large.bin"})
    assert far.sent == []


SEND = """
import sys, time
from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.staging import DataOptions, plan_staging
from dagster_slurm.staging.store import InputStore
from dagster_slurm.transport import LocalTransport, upload
upload.Pacer.piece_bytes = 1 << 18
blocks = upload.Piece.blocks
def slow(piece):
    print("piece", flush=True)
    time.sleep(0.05)
    return blocks(piece)
upload.Piece.blocks = slow
cluster = SlurmCluster(LocalTransport(), remote_base=sys.argv[1])
InputStore(cluster, plan_staging(DataOptions([sys.argv[2]])).inputs, print).upload()
"""


def test_an_upload_whose_process_was_killed_is_gone_on_with(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    process = forked.start([sys.executable, "-c", SEND, str(base), str(data / "large.bin")], stdout=subprocess.PIPE)
    assert process.stdout
    for _ in range(8):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (part,) = (base / "data").glob(".dagster-slurm.*.part")
    time.sleep(0.3)
    arrived = part.stat().st_size
    assert 0 < arrived < LARGE_BYTES
    transport = LocalTransport()
    sent: list[int] = []
    init = Piece.__init__
    monkeypatch.setattr(Piece, "__init__", lambda self, stream, size: (sent.append(size), init(self, stream, size))[1])
    plan = plan_staging(DataOptions([data / "large.bin"]))
    InputStore(SlurmCluster(transport, remote_base=str(base)), plan.inputs, lambda _: None).upload()
    transport.close()
    assert sum(sent) == LARGE_BYTES - arrived
    assert sha256(base / "data" / sha256(data / "large.bin")) == sha256(data / "large.bin")


def test_large_files_are_not_read_again_for_their_sum(far: Far, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(data / "large.bin", (1e9, 1e9))
    far.provide([data / "large.bin"])
    monkeypatch.setattr(local_digests, "_read", lambda *_: pytest.fail("it was read"))
    far.provide([data / "large.bin"])
    assert len(far.sent) == 1
