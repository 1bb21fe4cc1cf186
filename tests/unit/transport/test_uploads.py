"""The parts of an upload that can be decided without a connection."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.transport import TreeEntry, UploadProgress, content
from dagster_slurm.transport.content import archive_tree
from dagster_slurm.transport.progress import ProgressReport
from dagster_slurm.transport.upload import (
    LARGEST_PIECE_BYTES,
    LARGEST_PIECE_ON_ONE_CHANNEL_BYTES,
    SMALLEST_PIECE_BYTES,
    Pacer,
    Parcel,
    Piece,
    Stream,
    file_parcel,
    partial_of,
    tree_parcel,
)

MIB = 1 << 20


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
            (UploadProgress(999, 1_000_000, 999, 1000), "uploaded 0 of 1 MB (0 %), 999 bytes/s, 17 min left"),
            (UploadProgress(3 * 10**12, 4 * 10**12, 1e8, 1e4), "uploaded 3 of 4 TB (75 %), 100 MB/s, 2.8 h left"),
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
        directory, _, name = partial_of(destination, "d" * 64).rpartition("/")
        assert directory == (destination.rpartition("/")[0].rstrip("/") or ("/" if destination[0] == "/" else "."))
        assert len(name) < 128
        assert name.startswith(".dagster-slurm.")

    def test_it_tells_destination_and_content(self) -> None:
        paths = {partial_of(f"/d/{a}", b * 64) for a in "xy" for b in "12"}
        assert len(paths) == 4

    def test_other_modes_are_another_tree(self) -> None:
        digests = {
            archive_tree([TreeEntry("a", data, mode)]).digest for data in (b"1", b"2") for mode in (0o600, 0o700)
        }
        assert len(digests) == 4


def parcel_of(source: bytes | Path) -> Parcel:
    return file_parcel(source, *content.examine(source), what="it")


class TestParcel:
    """What is read is what is sent, to the byte."""

    @given(st.binary(max_size=3000), st.lists(st.integers(1, 1000), min_size=1))
    @settings(max_examples=50)
    def test_pieces_make_the_whole(self, data: bytes, sizes: list[int]) -> None:
        parcel = parcel_of(data)
        sent, blocks = b"", parcel.read(0)
        stream = Stream(blocks)
        for size in [*sizes, len(data)]:
            piece = Piece(stream, min(size, len(data) - len(sent)))
            sent += b"".join(piece.blocks())
            assert piece.fault is None
        assert (sent, list(blocks)) == (data, [])

    @given(st.binary(max_size=3000), st.integers(0, 3000))
    @settings(max_examples=50)
    def test_it_goes_on_from_anywhere(self, data: bytes, offset: int) -> None:
        archive = archive_tree([TreeEntry("it", data)])
        for parcel, whole in ((parcel_of(data), data), (tree_parcel(archive), b"".join(archive.blocks()))):
            stream = Stream(parcel.read(min(offset, len(whole))))
            rest = b"".join(Piece(stream, max(0, len(whole) - offset)).blocks())
            assert rest == whole[offset:]

    def test_a_tree_is_its_archive(self) -> None:
        archive = archive_tree([TreeEntry(f"{number}", b"%d" % number * 999) for number in range(300)])
        parcel = tree_parcel(archive)
        stream = Stream(parcel.read(0))
        sent = b"".join(
            block for size in (1, 511, 70_000, parcel.size - 70_512) for block in Piece(stream, size).blocks()
        )
        assert sent == b"".join(archive.blocks())

    def test_a_file_that_becomes_shorter_is_filled_up_and_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 3 * MIB)
        stream = Stream(parcel_of(path).read(0))
        assert b"".join(Piece(stream, MIB).blocks()) == b"x" * MIB
        path.write_bytes(b"y" * 10)
        piece = Piece(stream, 2 * MIB)
        assert len(b"".join(piece.blocks())) == 2 * MIB
        assert isinstance(piece.fault, InvalidRequestError)

    def test_a_file_that_was_written_to_is_refused_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 1000)
        blocks = parcel_of(path).read(0)
        assert b"".join(Piece(Stream(blocks), 1000).blocks()) == b"x" * 1000
        path.write_bytes(b"z" * 1000)
        with pytest.raises(InvalidRequestError, match="changed while it was sent"):
            next(blocks)

    def test_a_file_that_changed_before_it_is_opened_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 1000)
        parcel = parcel_of(path)
        path.write_bytes(b"x" * 1001)
        with pytest.raises(InvalidRequestError):
            next(parcel.read(0))
