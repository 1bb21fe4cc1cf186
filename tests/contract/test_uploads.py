"""Uploads in pieces: whole or not at all, from where they broke off, and with others in between."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dagster_slurm.errors import (
    ConnectionFailedError,
    InvalidRequestError,
    RemoteStorageError,
    TransferCorruptedError,
    TransportError,
)
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.transport import LocalTransport, OpenSSHTransport, TreeEntry, UploadProgress, progress, upload
from dagster_slurm.transport.channel import ShellChannel
from dagster_slurm.transport.shell import verb
from dagster_slurm.transport.shell_transport import ShellTransport
from dagster_slurm.transport.upload import ONE_REQUEST_BYTES, SMALLEST_PIECE_BYTES, Piece
from dagster_slurm_sandbox.users import small_filesystem
from tests.ssh import connection_of, control_directory, opened

pytestmark = pytest.mark.sampled("way", share=3)
MIB = 1 << 20
RANDOM = os.urandom(12 * MIB)
# Sends every piece of the smallest size: several of them, whatever the link.
SIZES = [
    *(0, 1, ONE_REQUEST_BYTES - 1, ONE_REQUEST_BYTES, ONE_REQUEST_BYTES + 1),
    *(ONE_REQUEST_BYTES + SMALLEST_PIECE_BYTES + difference for difference in (-1, 0, 1)),
    len(RANDOM),
]


@dataclass
class Far:
    """A transport, and a directory at its other end; both ends are on this machine."""

    transport: ShellTransport
    root: Path
    cleanup: ExitStack = field(default_factory=ExitStack)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir())

    def partials(self) -> list[Path]:
        return sorted(self.root.glob(".dagster-slurm.*.part"))

    def path(self, name: str = "it") -> str:
        return f"{self.root}/{name}"

    def own(self, path: Path) -> None:
        entry = pwd.getpwnam(self.root.owner())
        os.chown(path, entry.pw_uid, entry.pw_gid)


@contextmanager
def opened_local(_: pytest.FixtureRequest) -> Iterator[Far]:
    with tempfile.TemporaryDirectory(prefix="uploads it's ") as root:
        transport = LocalTransport()
        yield Far(transport, Path(root))
        transport.close()


@contextmanager
def opened_ssh(request: pytest.FixtureRequest, *, strict: bool) -> Iterator[Far]:
    sandbox: Sandbox = request.getfixturevalue("sandbox")
    with control_directory() as directory:
        connection = connection_of(sandbox.env(strict=strict), control_dir=directory)
        with opened(connection) as transport:
            root = transport.run('mktemp -d ~/"uploads it\'s XXXXXX"').text.strip()
            assert transport.is_shared != strict
            yield Far(transport, Path(root))
            shutil.rmtree(root)


WAYS: dict[str, Callable[[pytest.FixtureRequest], object]] = {
    "local": opened_local,
    "key": lambda request: opened_ssh(request, strict=False),
    "password": lambda request: opened_ssh(request, strict=True),
}


@pytest.fixture(
    scope="module", params=["local", *(pytest.param(way, marks=pytest.mark.cluster) for way in WAYS if way != "local")]
)
def way(request: pytest.FixtureRequest) -> Iterator[Far]:
    with WAYS[request.param](request) as far:  # type: ignore[attr-defined]
        yield far


@pytest.fixture
def far(way: Far) -> Iterator[Far]:
    """The way, with an empty directory."""
    yield way
    for path in way.root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(RANDOM)
    return path


@dataclass
class Pieces:
    """What is sent in pieces: how many of them, how many bytes; and what is done when one is due.

    When `before` is called, the far end may have the request already, and sum the piece that came before; not so when
    `early` is called.
    """

    sent_bytes: int = 0
    count: int = 0
    before: Callable[[int], None] = lambda number: None
    early: Callable[[int], None] = lambda number: None


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Pieces:
    """Watches the pieces, all of which are small."""
    seen = Pieces()
    blocks, init = Piece.blocks, Piece.__init__

    def made(piece: Piece, *args: Any) -> None:
        init(piece, *args)
        seen.early(seen.count + 1)

    def watched(piece: Piece) -> Iterator[bytes]:
        seen.count += 1
        seen.before(seen.count)
        for block in blocks(piece):
            seen.sent_bytes += len(block)
            yield block

    monkeypatch.setattr(Piece, "__init__", made)
    monkeypatch.setattr(Piece, "blocks", watched)
    monkeypatch.setattr(upload.Pacer, "piece_bytes", SMALLEST_PIECE_BYTES)
    return seen


@pytest.fixture
def channels(monkeypatch: pytest.MonkeyPatch) -> list[ShellChannel]:
    """The channels that are asked something, the last one last."""
    asked: list[ShellChannel] = []
    request = ShellChannel.request

    def noted(channel: ShellChannel, *args: object, **named: object) -> object:
        asked.append(channel)
        return request(channel, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ShellChannel, "request", noted)
    return asked


def put_any(far: Far, source: Path, *, tree: bool, name: str = "it") -> None:
    if tree:
        far.transport.put_tree([TreeEntry("file", source)], far.path(name))
    else:
        far.transport.put(source, far.path(name))


def content_of(far: Far, *, tree: bool, name: str = "it") -> bytes:
    return (far.root / name / "file" if tree else far.root / name).read_bytes()


BOTH = pytest.mark.parametrize("tree", [False, True], ids=["put", "put_tree"])


class TestWhole:
    """What was put is there."""

    @pytest.mark.parametrize("size", SIZES)
    @BOTH
    def test_every_size_arrives(self, far: Far, tmp_path: Path, size: int, tree: bool) -> None:
        path = tmp_path / "source"
        path.write_bytes(RANDOM[:size])
        put_any(far, path, tree=tree)
        assert content_of(far, tree=tree) == RANDOM[:size]
        assert far.left() == ["it"]

    @pytest.mark.parametrize("more", [-1, 0, 1])
    def test_around_the_end_of_a_piece(self, far: Far, pieces: Pieces, more: int) -> None:
        data = RANDOM[: 20 * SMALLEST_PIECE_BYTES + more]
        far.transport.put(data, far.path(), mode=0o640)
        assert content_of(far, tree=False) == data
        assert (far.root / "it").stat().st_mode & 0o777 == 0o640
        assert pieces.count == 20 + (more > 0)

    def test_an_old_file_is_replaced(self, far: Far, source: Path) -> None:
        far.transport.put(b"old", far.path())
        put_any(far, source, tree=False)
        assert content_of(far, tree=False) == RANDOM

    def test_many_small_files_go_in_one_stream(self, far: Far, channels: list[ShellChannel]) -> None:
        entries = [TreeEntry(f"{number % 7}/{number}", RANDOM[number : 2 * number]) for number in range(3000)]
        far.transport.put_tree(entries, far.path())
        found = {str(path.relative_to(far.root / "it")): path.read_bytes() for path in far.root.rglob("*/*/*")}
        assert found == {entry.name: entry.source for entry in entries}
        assert len(channels) < 20

    def test_the_partial_file_is_private_and_beside_its_destination(
        self, far: Far, source: Path, pieces: Pieces
    ) -> None:
        seen: list[tuple[int, bool]] = []
        pieces.before = lambda number: seen.extend(
            (path.stat().st_mode & 0o777, (far.root / "it").exists()) for path in far.partials()
        )
        put_any(far, source, tree=False)
        assert set(seen) == {(0o600, False)}


class TestBroken:
    """What has arrived is not sent again."""

    @pytest.mark.parametrize("number", [1, 2, 30])
    @BOTH
    def test_only_the_rest_is_sent(
        self, far: Far, source: Path, pieces: Pieces, channels: list[ShellChannel], number: int, tree: bool
    ) -> None:
        pieces.before = lambda count: channels[-1].close() if count == number else None
        with pytest.raises((ConnectionFailedError, ValueError)):
            put_any(far, source, tree=tree)
        assert not (far.root / "it").exists()
        (partial,) = far.partials()
        arrived = partial.stat().st_size
        assert arrived >= (number - 1) * SMALLEST_PIECE_BYTES
        pieces.before, pieces.sent_bytes = lambda count: None, 0
        put_any(far, source, tree=tree)
        assert content_of(far, tree=tree) == RANDOM
        assert pieces.sent_bytes <= len(RANDOM) + 10_000 - (number - 1) * SMALLEST_PIECE_BYTES
        assert far.left() == ["it"]

    def test_it_breaks_again_and_again(
        self, far: Far, source: Path, pieces: Pieces, channels: list[ShellChannel]
    ) -> None:
        pieces.before = lambda count: channels[-1]._process.kill() if count % 15 == 0 else None
        for _ in range(10):
            try:
                put_any(far, source, tree=False)
                break
            except TransportError as error:
                assert error.transient
        assert content_of(far, tree=False) == RANDOM
        assert pieces.sent_bytes < len(RANDOM) + 10 * SMALLEST_PIECE_BYTES

    def test_an_error_of_the_connection_leaves_what_has_arrived(self, far: Far) -> None:
        """As a TTY gives it when it is hung up; here it is a directory that cannot be read."""
        partial = far.root / "partial"
        partial.write_bytes(b"arrived")
        far.own(partial)
        piece = verb("upload_piece")
        done = far.transport.run(f"exec </\n{piece}", [str(partial), "7", "10"])
        assert (done.returncode, partial.read_bytes()) == (74, b"arrived")

    def test_another_process_goes_on(self, far: Far, source: Path, pieces: Pieces) -> None:
        half_sent(far, source, pieces)
        again = source.with_name("the same content")
        again.write_bytes(RANDOM)
        put_any(far, again, tree=False)
        assert content_of(far, tree=False) == RANDOM
        assert pieces.sent_bytes < len(RANDOM) / 2 + SMALLEST_PIECE_BYTES
        assert far.left() == ["it"]

    @pytest.mark.parametrize("place", [0, 3 * MIB, -1], ids=["first", "middle", "last"])
    @BOTH
    def test_a_corrupted_partial_file_is_thrown_away(
        self, far: Far, source: Path, pieces: Pieces, place: int, tree: bool
    ) -> None:
        half_sent(far, source, pieces, tree=tree)
        (partial,) = far.partials()
        data = bytearray(partial.read_bytes())
        data[place] ^= 1
        partial.write_bytes(data)
        put_any(far, source, tree=tree)
        assert content_of(far, tree=tree) == RANDOM
        assert pieces.sent_bytes >= len(RANDOM)
        assert far.left() == ["it"]

    @pytest.mark.parametrize("number", [2, 48], ids=["second", "last"])
    @BOTH
    def test_what_is_corrupted_while_it_is_sent_is_not_published(
        self, far: Far, source: Path, pieces: Pieces, number: int, tree: bool
    ) -> None:
        def corrupt(count: int) -> None:
            if count == number:
                with far.partials()[0].open("r+b") as file:
                    file.seek(-1000, os.SEEK_END)
                    byte = file.read(1)
                    file.seek(-1, os.SEEK_CUR)
                    file.write(bytes([byte[0] ^ 1]))

        pieces.early = corrupt
        source.write_bytes(RANDOM[:-1])
        with pytest.raises(TransferCorruptedError) as caught:
            put_any(far, source, tree=tree)
        assert caught.value.transient
        assert far.left() == []

    def test_what_another_has_thrown_away_is_sent_anew(self, far: Far, source: Path, pieces: Pieces) -> None:
        pieces.before = lambda count: far.partials()[0].rename(far.root / "taken") if count == 5 else None
        put_any(far, source, tree=False)
        assert content_of(far, tree=False) == RANDOM
        assert far.left() == ["it", "taken"]

    def test_what_others_throw_away_again_and_again_is_let_go(self, far: Far, source: Path, pieces: Pieces) -> None:
        pieces.early = lambda count: far.partials()[0].unlink(missing_ok=True)
        with pytest.raises(TransferCorruptedError, match="Another process") as caught:
            put_any(far, source, tree=False)
        assert caught.value.transient
        assert far.left() == []
        assert far.transport.run("echo on").text == "on\n"

    def test_partial_files_that_died_long_ago_are_removed(self, far: Far, source: Path) -> None:
        dead = far.root / ".dagster-slurm.0.1.2.part"
        dead.write_bytes(b"x")
        far.own(dead)
        os.utime(dead, (time.time() - 90_000,) * 2)
        put_any(far, source, tree=False)
        assert far.left() == ["it"]


def half_sent(far: Far, source: Path, pieces: Pieces, *, tree: bool = False) -> None:
    """An upload that breaks in its middle; what is counted begins anew."""

    class BrokenOffError(Exception):
        """As when the process ends."""

    def stop(count: int) -> None:
        if count == 26:
            raise BrokenOffError

    pieces.before = stop
    with pytest.raises(BrokenOffError):
        put_any(far, source, tree=tree)
    pieces.before, pieces.sent_bytes = lambda count: None, 0


class TestAtOnce:
    """Several uploads, and uploads among other requests."""

    @BOTH
    def test_several_of_the_same_to_the_same_place(self, far: Far, source: Path, pieces: Pieces, tree: bool) -> None:
        with ThreadPoolExecutor(4) as threads:
            for each in [threads.submit(put_any, far, source, tree=tree) for _ in range(4)]:
                each.result()
        assert content_of(far, tree=tree) == RANDOM
        assert far.left() == ["it"]

    @BOTH
    def test_again_and_again_at_almost_the_same_moment(self, far: Far, tree: bool) -> None:
        """One of thirty failed, or was told that another process goes on."""
        for number in range(10 if far.transport.host == "this machine" else 3):
            data = os.urandom(ONE_REQUEST_BYTES + 1)
            late = iter(0.002 * (number % 8) * each for each in range(4))

            def put(after: float, data: bytes = data, name: str = f"it{number}") -> bytes:
                time.sleep(after)
                if tree:
                    far.transport.put_tree([TreeEntry("file", data)], far.path(name))
                    return (far.root / name / "file").read_bytes()
                far.transport.put(data, far.path(name), mode=0o400)
                return (far.root / name).read_bytes()

            with ThreadPoolExecutor(4) as threads:
                assert set(threads.map(put, late)) == {data}
        assert far.partials() == []

    def test_several_processes_of_the_same(self, far: Far, source: Path, pieces: Pieces) -> None:
        put_any(far, source, tree=False)
        (far.root / "it").unlink()
        second: list[bytes] = []

        def other(count: int) -> None:
            if count == 70:
                pieces.before = lambda count: None
                with ThreadPoolExecutor(1) as thread:
                    transport = LocalTransport()
                    thread.submit(transport.put, source, far.path()).result()
                    transport.close()
                second.append(content_of(far, tree=False))

        pieces.before = other
        if not isinstance(far.transport, LocalTransport):
            pytest.skip("the other end of the second one is this machine's own shell")
        put_any(far, source, tree=False)
        assert (second, content_of(far, tree=False)) == ([RANDOM], RANDOM)

    def test_of_different_contents_one_wins_whole(self, far: Far) -> None:
        contents = [bytes([number]) * (5 * MIB + number) for number in range(4)]
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda data: far.transport.put(data, far.path()), contents))
        assert content_of(far, tree=False) in contents
        assert far.left() == ["it"]

    def test_other_requests_are_answered_meanwhile(self, far: Far, source: Path, pieces: Pieces) -> None:
        """Also on one channel: between any two requests at most one piece, and none waits for the upload's end."""
        counts: list[int] = []
        begun = threading.Event()
        pieces.before = lambda count: begun.set()
        with ThreadPoolExecutor(1) as threads:
            sending = threads.submit(put_any, far, source, tree=False)
            assert begun.wait(20)
            while not sending.done() and len(counts) < 20:
                before = pieces.count
                far.transport.read_from("/etc/hostname", 0, 10)
                counts.append(pieces.count - before)
            sending.result()
        # A busy machine may send most of the pieces before the next request is made.
        assert len(counts) >= 5
        if isinstance(far.transport, OpenSSHTransport) and not far.transport.is_shared:
            assert max(counts) <= 2
        assert content_of(far, tree=False) == RANDOM


class TestRefused:
    """What cannot be, and what is left of it: nothing."""

    @pytest.mark.parametrize("size", [1, 3, 8])
    @BOTH
    def test_no_space(self, far: Far, source: Path, pieces: Pieces, size: int, tree: bool) -> None:
        if os.geteuid() != 0:
            pytest.skip("mounting a small file system needs root")
        with small_filesystem(far.root, far.root.owner(), size) as full:
            with pytest.raises(RemoteStorageError, match=r"No space left|file system is full") as caught:
                put_any(far, source, tree=tree, name=f"{full.name}/it")
            assert (str(full) in caught.value.message, bool(caught.value.hint)) == (True, True)
            assert list(full.iterdir()) == []
            put_any(far, source, tree=tree, name="elsewhere")
            assert far.transport.run("cat", stdin=b"on").stdout == b"on"

    @pytest.mark.cluster
    def test_no_permission(self, far: Far, source: Path, pieces: Pieces) -> None:
        if isinstance(far.transport, LocalTransport):
            pytest.skip("root may write anywhere")
        with pytest.raises(RemoteStorageError, match="Permission denied"):
            far.transport.put(source, "/usr/it")
        with pytest.raises(RemoteStorageError, match="Permission denied"):
            far.transport.put_tree([TreeEntry("file", source)], "/usr/it/it")
        assert pieces.count == 0

    def test_a_directory_is_in_the_way(self, far: Far, source: Path) -> None:
        far.transport.put_tree([TreeEntry("a", b"1")], far.path())
        with pytest.raises(TransportError, match="directory"):
            put_any(far, source, tree=False)
        assert far.left() == ["it"]

    def test_a_directory_is_missing(self, far: Far, source: Path) -> None:
        with pytest.raises(TransportError, match="No such file or directory"):
            put_any(far, source, tree=False, name="no/it")
        assert far.left() == []

    def test_a_tree_that_is_there_is_not_sent(self, far: Far, source: Path, pieces: Pieces) -> None:
        far.transport.put_tree([TreeEntry("a", b"1")], far.path())
        put_any(far, source, tree=True)
        assert (pieces.count, [path.name for path in (far.root / "it").iterdir()]) == (0, ["a"])

    @pytest.mark.parametrize(
        "after", [b"", RANDOM[:-1], RANDOM + b"x", RANDOM[::-1]], ids=["emptied", "shrunk", "grown", "changed"]
    )
    @pytest.mark.parametrize("number", [1, 20, 48])
    def test_a_source_that_changes(self, far: Far, source: Path, pieces: Pieces, after: bytes, number: int) -> None:
        far.transport.put(b"old", far.path())
        pieces.count = 0
        pieces.before = lambda count: None if count != number else rewrite(source, after)
        with pytest.raises((InvalidRequestError, TransferCorruptedError)):
            put_any(far, source, tree=False)
        assert (far.left(), content_of(far, tree=False)) == (["it"], b"old")
        assert far.transport.run("cat", stdin=b"on").stdout == b"on"

    @pytest.mark.parametrize("after", [b"", RANDOM[::-1]], ids=["emptied", "changed"])
    def test_a_source_in_a_tree_that_changes(self, far: Far, source: Path, pieces: Pieces, after: bytes) -> None:
        pieces.before = lambda count: None if count != 20 else rewrite(source, after)
        with pytest.raises((InvalidRequestError, TransferCorruptedError)):
            put_any(far, source, tree=True)
        assert far.left() == []


def rewrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


class TestProgress:
    """What is told meanwhile."""

    @BOTH
    def test_it_grows_to_the_end(
        self, far: Far, source: Path, pieces: Pieces, tree: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.0)
        told: list[UploadProgress] = []
        if tree:
            far.transport.put_tree([TreeEntry("file", source)], far.path(), progress=told.append)
        else:
            far.transport.put(source, far.path(), progress=told.append)
        assert len(told) > 5
        sent = [each.sent_bytes for each in told]
        assert sent == sorted(set(sent))
        assert {each.total_bytes for each in told} == {told[0].total_bytes}
        assert sent[0] > 0 and sent[-1] < told[0].total_bytes < len(RANDOM) + 10_000 * tree + 1
        assert all(each.bytes_per_second > 0 and each.seconds_left is not None for each in told)

    def test_a_callback_that_fails_breaks_the_upload_and_not_the_channel(
        self, far: Far, source: Path, pieces: Pieces, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.0)

        def fail(_: UploadProgress) -> None:
            raise KeyError("mine")

        with pytest.raises(KeyError):
            far.transport.put(source, far.path(), progress=fail)
        assert far.transport.run("echo on").text == "on\n"
