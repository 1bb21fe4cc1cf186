"""The parts of an upload that can be decided without a connection."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.transport import TreeEntry, UploadProgress, content
from dagster_slurm.transport.archive import archive_tree
from dagster_slurm.transport.content import Remainder
from dagster_slurm.transport.parcel import FileRange, Piece, file_parcel, remainder_of_next, tree_parcel
from dagster_slurm.transport.progress import ProgressReport
from dagster_slurm.transport.upload import (
    LARGEST_PIECE_BYTES,
    LARGEST_PIECE_ON_ONE_CHANNEL_BYTES,
    SMALLEST_PIECE_BYTES,
    Pacer,
    Partial,
)

MIB = 1 << 20


def printed_by_cksum(data: bytes) -> str:
    return subprocess.run(["cksum"], input=data, capture_output=True, check=True).stdout.decode()


class TestCksum:
    """Sums of parts make the sum of the whole, as cksum prints it."""

    @pytest.mark.parametrize("data", [b"", b"\0", b"x", b"\0" * 300, bytes(range(256)) * 300], ids=len)
    def test_it_is_what_cksum_prints(self, data: bytes) -> None:
        printed = printed_by_cksum(data)
        remainder = Remainder().followed_by(data)
        assert f"{remainder.cksum} {remainder.size_bytes}\n" == printed
        assert Remainder.from_cksum(printed) == remainder

    @given(st.binary(max_size=2000), st.binary(max_size=2000))
    def test_parts_make_the_whole(self, first: bytes, second: bytes) -> None:
        whole = Remainder().followed_by(first + second)
        parts = [Remainder().followed_by(each) for each in (first, second)]
        assert parts[0] + parts[1] == whole == parts[0].followed_by(second)
        assert whole.without(parts[0]) == parts[1]
        assert Remainder.from_cksum(f"{whole.cksum} {whole.size_bytes}") == whole

    @given(st.integers(0, 2**32 - 1), st.integers(0, 2**60))
    def test_what_is_printed_can_be_read_back_for_any_size(self, value: int, size: int) -> None:
        remainder = Remainder(value, size)
        assert Remainder.from_cksum(f"{remainder.cksum} {size}") == remainder

    @given(st.binary(min_size=1, max_size=500), st.integers(0, 10**6))
    def test_one_wrong_bit_is_seen(self, data: bytes, place: int) -> None:
        wrong = bytearray(data)
        wrong[place % len(data)] ^= 1 << place % 8
        assert Remainder().followed_by(bytes(wrong)) != Remainder().followed_by(data)


class TestPacer:
    """A piece takes about a second, whatever the link."""

    @pytest.mark.parametrize(
        ("largest", "expected"),
        [(LARGEST_PIECE_BYTES, 4 * MIB), (LARGEST_PIECE_ON_ONE_CHANNEL_BYTES, SMALLEST_PIECE_BYTES), (1, 256 << 10)],
    )
    def test_the_first_piece_is_small(self, largest: int, expected: int) -> None:
        assert Pacer(largest).piece_bytes == expected

    @pytest.mark.parametrize(
        ("bytes_per_second", "expected"),
        [
            (1_000, SMALLEST_PIECE_BYTES),
            (1_000_000, 1_000_000),
            (10_000_000, 10_000_000),
            (1_000_000_000, LARGEST_PIECE_BYTES),
        ],
    )
    def test_it_is_what_passes_in_a_second(self, bytes_per_second: int, expected: int) -> None:
        pacer = Pacer()
        for _ in range(12):
            pacer.sent(pacer.piece_bytes, pacer.piece_bytes / bytes_per_second)
        assert pacer.piece_bytes == pytest.approx(expected, rel=0.01)

    def test_a_delay_that_the_first_piece_paid_for_is_forgotten(self) -> None:
        pacer = Pacer()
        for _ in range(8):
            pacer.sent(pacer.piece_bytes, 0.2 + pacer.piece_bytes / 20_000_000)
        assert pacer.piece_bytes > 10_000_000

    def test_a_link_that_becomes_slow_gets_small_pieces(self) -> None:
        pacer = Pacer()
        pacer.sent(SMALLEST_PIECE_BYTES, 0.0001)
        assert pacer.piece_bytes == LARGEST_PIECE_BYTES
        sizes = []
        for _ in range(20):
            pacer.sent(pacer.piece_bytes, pacer.piece_bytes / 300_000)
            sizes.append(pacer.piece_bytes)
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] < 330_000

    @given(st.lists(st.floats(0, 1e5)))
    def test_it_is_always_within_its_limits(self, seconds: list[float]) -> None:
        pacer = Pacer()
        for each in seconds:
            assert SMALLEST_PIECE_BYTES <= pacer.piece_bytes <= LARGEST_PIECE_BYTES
            pacer.sent(pacer.piece_bytes, each)


class TestProgress:
    """What is told, and when."""

    @pytest.mark.parametrize(
        ("progress", "line"),
        [
            (UploadProgress(120_000_000, 200_000_000, 35e6, 2.3), "uploaded 120 of 200 MB (60 %), 35 MB/s, 2 s left"),
            (UploadProgress(0, 5_000, 0, None), "uploaded 0 of 5 kB (0 %), 0 bytes/s"),
            (UploadProgress(999, 1_000_000, 999, 1000), "uploaded 0 of 1 MB (0 %), 999 bytes/s, 16 min left"),
            (UploadProgress(3 * 10**12, 4 * 10**12, 1e8, 1e4), "uploaded 3 of 4 TB (75 %), 100 MB/s, 2 h 46 min left"),
            (UploadProgress(199_999_999, 200_000_000, 1e6, 0), "uploaded 200 of 200 MB (99 %), 1 MB/s, 0 s left"),
            (UploadProgress(0, 0, 0, None), "uploaded 0 of 0 bytes (100 %), 0 bytes/s"),
        ],
    )
    def test_line(self, progress: UploadProgress, line: str) -> None:
        assert str(progress) == line

    def test_it_begins_after_some_seconds_and_becomes_rare(self) -> None:
        now = 0.0
        told: list[float] = []
        report = ProgressReport(
            lambda progress: told.append(now), total_bytes=10**9, arrived_bytes=0, clock=lambda: now
        )
        for second in range(600):
            now = float(second)
            report.sent(second)
        pauses = [after - before for before, after in zip([0.0, *told], told, strict=False)]
        assert pauses[0] == 3
        assert pauses == sorted(pauses)
        assert pauses[-1] == 60

    def test_earlier_tries_count_as_arrived_and_not_as_speed(self) -> None:
        now = 0.0
        told: list[UploadProgress] = []
        report = ProgressReport(told.append, total_bytes=200, arrived_bytes=100, clock=lambda: now)
        now = 10.0
        report.sent(150)
        assert told == [UploadProgress(150, 200, 5.0, 10.0)]

    def test_short_uploads_are_not_told_about(self) -> None:
        told: list[UploadProgress] = []
        report = ProgressReport(told.append, total_bytes=2, arrived_bytes=0, clock=lambda: 0.0)
        report.sent(1)
        assert told == []


class TestNames:
    """Where a partial file lies and what it is called."""

    @given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=300))
    @settings(max_examples=50)
    def test_it_lies_beside_its_destination_and_is_short(self, destination: str) -> None:
        partial = Partial(destination, "d" * 64, "w" * 16)
        directory, _, name = partial.path.rpartition("/")
        assert directory == (destination.rpartition("/")[0].rstrip("/") or ("/" if destination[0] == "/" else "."))
        assert len(name) < 128
        assert name.startswith(".dagster-slurm.")

    def test_it_tells_destination_content_and_writer(self) -> None:
        paths = {Partial(f"/d/{a}", b * 64, c).path for a in "xy" for b in "12" for c in "pq"}
        assert len(paths) == 8

    def test_bytes_and_file_of_one_content_are_known_again(self, tmp_path: Path) -> None:
        data = bytes(5 * MIB)
        path = tmp_path / "file"
        path.write_bytes(data)
        first, again = (content.examine(path, whole_up_to=MIB) for _ in range(2))
        assert first == again
        assert content.examine(data, whole_up_to=MIB) == content.examine(data, whole_up_to=MIB)

    @pytest.mark.parametrize("place", [0, 5 * MIB - 1])
    def test_other_content_has_another_digest(self, tmp_path: Path, place: int) -> None:
        path = tmp_path / "file"
        data = bytearray(5 * MIB)
        path.write_bytes(data)
        before = content.examine(path, whole_up_to=MIB)
        data[place] = 1
        path.write_bytes(data)
        assert content.examine(path, whole_up_to=MIB).sha256 != before.sha256

    def test_other_modes_are_another_tree(self) -> None:
        digests = {
            archive_tree([TreeEntry("a", data, mode)]).digest for data in (b"1", b"2") for mode in (0o600, 0o700)
        }
        assert len(digests) == 4


def sent_through_a_pipe(piece: Piece) -> bytes:
    """What arrives of a piece."""
    reading, writing = os.pipe()
    arrived = bytearray()
    with os.fdopen(reading, "rb") as end, os.fdopen(writing, "wb", buffering=0) as pipe:
        for block in piece.blocks():
            if isinstance(block, FileRange):
                while block.move_to(pipe):
                    arrived += end.read1(MIB)  # type: ignore[attr-defined]
            else:
                pipe.write(block)
            os.set_blocking(reading, False)
            while some := end.read1(MIB):  # type: ignore[attr-defined]
                arrived += some
            os.set_blocking(reading, True)
    return bytes(arrived)


class TestParcel:
    """What is read is what is sent, to the byte."""

    @given(st.binary(max_size=3000), st.lists(st.integers(1, 1000), min_size=1))
    @settings(max_examples=50)
    def test_pieces_make_the_whole(self, data: bytes, sizes: list[int]) -> None:
        parcel = file_parcel(data, content.examine(data, whole_up_to=0), what="it")
        sent = b""
        with parcel.open() as stream:
            for size in [*sizes, len(data)]:
                piece = Piece(stream, min(size, len(data) - len(sent)))
                sent += b"".join(piece.blocks())
                assert piece.fault is None
            assert stream.finish() == Remainder().followed_by(data)
        assert sent == data

    def test_a_tree_is_its_archive(self) -> None:
        archive = archive_tree([TreeEntry(f"{number}", b"%d" % number * 999) for number in range(300)])
        parcel = tree_parcel(archive)
        with parcel.open() as stream:
            sent = b"".join(
                block for size in (1, 511, 70_000, parcel.size - 70_512) for block in Piece(stream, size).blocks()
            )
        assert sent == b"".join(archive.blocks())

    def test_a_file_that_becomes_shorter_is_filled_up_and_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 1000)
        with file_parcel(path, content.examine(path, whole_up_to=0), what="it").open() as stream:
            path.write_bytes(b"y" * 10)
            piece = Piece(stream, 1000)
            assert len(sent_through_a_pipe(piece)) == 1000
            assert isinstance(piece.fault, InvalidRequestError)

    def test_a_file_that_was_written_to_is_refused_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 1000)
        with file_parcel(path, content.examine(path, whole_up_to=0), what="it").open() as stream:
            assert sent_through_a_pipe(Piece(stream, 1000)) == b"x" * 1000
            path.write_bytes(b"z" * 1000)
            with pytest.raises(InvalidRequestError, match="changed while it was sent"):
                stream.finish()

    def test_a_file_that_changed_before_it_is_opened_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 1000)
        parcel = file_parcel(path, content.examine(path, whole_up_to=0), what="it")
        path.write_bytes(b"x" * 1001)
        with pytest.raises(InvalidRequestError), parcel.open():
            pass

    def test_without_a_cksum_program_python_sums(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 1000)
        monkeypatch.setenv("PATH", "")
        with file_parcel(path, content.examine(path, whole_up_to=0), what="it").open() as stream:
            assert remainder_of_next(stream, 5000) == Remainder().followed_by(b"x" * 1000)
            assert stream.finish() == Remainder().followed_by(b"x" * 1000)
