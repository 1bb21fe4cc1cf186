"""An upload in pieces: it goes on from what an earlier try has brought there, and lets other requests in between.

The partial file lies beside its destination; its name says what is uploaded where.
"""

from __future__ import annotations

import hashlib
import posixpath
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from dagster_slurm.errors import InvalidRequestError, TransferCorruptedError, TransportError
from dagster_slurm.transport import content
from dagster_slurm.transport.base import CompletedCommand, reading, whole_number
from dagster_slurm.transport.content import BLOCK_BYTES, TreeArchive, Version
from dagster_slurm.transport.progress import ProgressCallback, ProgressReport
from dagster_slurm.transport.shell import verb

ONE_REQUEST_BYTES = 4 << 20
"""A tree that is no larger is sent in one request."""
# With those who send the same: one that breaks, or finds something else there, throws away what all have brought.
_TRIES = 5
# Of a large file: larger ones save no more processor time.
_READ_BYTES = 1 << 18


class Ask(Protocol):
    """Runs a script at the far end, and raises the error that fits if it fails.

    A script that `takes` its stdin takes from the channel itself what `stdin` gives, to the byte. One that reads
    `size_bytes` there has the time for it.
    """

    def __call__(
        self,
        script: str,
        args: Sequence[str],
        *,
        what: str,
        stdin: Iterable[bytes] = (),
        stdin_bytes: int = 0,
        size_bytes: int = 0,
        takes: bool = False,
    ) -> CompletedCommand: ...


@dataclass(frozen=True)
class Parcel:
    """What is uploaded in pieces: a large file, or the stream of a tree.

    Args:
        size: In bytes.
        digest: Of its content, which is the same where it is.
        read: Its content from an offset on. Raises InvalidRequestError, at its end at the latest, if it is no longer
            what it was.
    """

    size: int
    digest: str
    read: Callable[[int], Generator[bytes, None, None]]


def file_parcel(source: bytes | Path, version: Version, sha256: str, *, what: str) -> Parcel:
    """A file, or bytes in hand, of a version that was summed; `what` names it in errors."""

    def read(offset: int) -> Generator[bytes, None, None]:
        with content.opened(source) as file:
            if Version.of(file) != version:
                raise content.changed(what)
            file.seek(offset)
            left = version.size - offset
            while left and (block := file.read(min(left, _READ_BYTES))):
                yield block
                left -= len(block)
            if Version.of(file) != version:
                raise content.changed(what)

    return Parcel(version.size, sha256, read)


def tree_parcel(archive: TreeArchive) -> Parcel:
    """A tree; its files are checked one by one when it is unpacked."""

    def read(offset: int) -> Generator[bytes, None, None]:
        for block in archive.blocks():
            if offset < len(block):
                yield block[offset:]
            offset = max(0, offset - len(block))

    return Parcel(archive.size_bytes, archive.digest, read)


class Stream:
    """Blocks that are cut as they are asked for."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Up to so many bytes; empty at the end."""
        block = self._rest or next(self._blocks, b"")
        self._rest = block[size:]
        return block[:size]


class Piece:
    """The next bytes of a stream.

    So many are sent as were announced, also when the source has become shorter: what would be missing, the far end
    would take from the next request.
    """

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self._size = size
        self.fault: InvalidRequestError | None = None

    def blocks(self) -> Iterator[bytes]:
        """The bytes; see `fault` afterwards."""
        left = self._size
        while left and (block := self._read(left)):
            yield block
            left -= len(block)
        while left:
            filler = bytes(min(left, BLOCK_BYTES))
            yield filler
            left -= len(filler)

    def _read(self, size: int) -> bytes:
        try:
            block = self._stream.read(size)
        except InvalidRequestError as error:
            self.fault = error
            return b""
        if not block:
            self.fault = content.changed("the upload")
        return block


class TakenOverError(TransferCorruptedError):
    """The partial file is gone, or read-only: another process has published it, or thrown it away."""


def partial_of(destination: str, digest: str) -> str:
    """The partial file of a content for a destination: the same for all who send it, and of a short name."""
    stem = hashlib.sha256(destination.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{posixpath.dirname(destination) or '.'}/.dagster-slurm.{stem}.{digest[:32]}.part"


class Upload:
    """Brings a parcel to where it belongs; see `Transport.put` and `put_tree` for what is raised.

    Everybody who sends the same content to the same destination writes the same bytes to the same places of one
    partial file, and goes on from what has arrived in it; what it holds is checked when it is published.
    """

    def __init__(
        self,
        ask: Ask,
        parcel: Parcel,
        destination: str,
        largest_piece: Callable[[], int],
        progress: ProgressCallback | None,
    ) -> None:
        self._ask = ask
        self._parcel = parcel
        self._destination = destination
        self._partial = partial_of(destination, parcel.digest)
        self._largest_piece = largest_piece
        self._progress = progress

    def as_file(self, mode: int) -> None:
        """Have a file arrive, and be published."""
        own = f".dagster-slurm.{uuid4().hex}.part"
        self._bring(self._parcel.digest, ("upload_publish", self._destination, f"{mode:o}", self._parcel.digest, own))

    def as_tree(self, checksums_name: str) -> None:
        """Have a tree arrive, and be unpacked."""
        unpack = ("upload_unpack", str(self._parcel.size), self._destination, checksums_name)
        self._bring("", unpack)

    def _bring(self, sha256: str, publish: tuple[str, ...]) -> None:
        """Have it arrive, and be published.

        Args:
            sha256: Of a file; empty for a directory.
            publish: The script that does so, and its arguments behind the partial file.
        """
        how = "continue"
        for left in reversed(range(_TRIES)):
            arrived = self._begin(sha256, how)
            if arrived == "there":
                return
            with reading("The size of what has arrived"):
                offset = min(whole_number(arrived), self._parcel.size)
            fault = self._brought(offset, publish)
            if fault is None or self._begin(sha256, "look") == "there":
                return
            is_taken = isinstance(fault, TakenOverError)
            if not left or not (is_taken or offset):
                raise fault
            how = "continue" if is_taken else "fresh"

    def _brought(self, offset: int, publish: tuple[str, ...]) -> TransportError | None:
        """Send what is missing, and publish it; the error if another process, or an earlier try, may be the cause."""
        try:
            with closing(self._parcel.read(offset)) as blocks:
                self._send(Stream(blocks), offset)
                # It says at its end whether it is what it was.
                next(blocks, None)
            script, *args = publish
            self._ask(verb(script), (self._partial, *args), what=self._destination, size_bytes=self._parcel.size)
        except InvalidRequestError:
            self._ask('rm -f -- "$1"', (self._partial,), what=self._destination)
            raise
        except TransportError as error:
            # What was there of a tree may be none that tar can read, which it says as of any file it cannot write.
            if type(error) not in (TransportError, TransferCorruptedError, TakenOverError):
                raise
            return error
        return None

    def _begin(self, sha256: str, how: str) -> str:
        args = (self._destination, self._partial, str(self._parcel.size), sha256, how)
        size_bytes = self._parcel.size if sha256 else 0
        return self._ask(verb("upload_begin"), args, what=self._destination, size_bytes=size_bytes).text.strip()

    def _send(self, stream: Stream, offset: int) -> None:
        pacer = Pacer(self._largest_piece())
        report = ProgressReport(self._progress, total_bytes=self._parcel.size, arrived_bytes=offset)
        while offset < self._parcel.size:
            size = min(pacer.piece_bytes, self._largest_piece(), self._parcel.size - offset)
            began = time.monotonic()
            self._send_piece(Piece(stream, size), offset, size)
            pacer.sent(size, time.monotonic() - began)
            offset += size
            report.sent(offset)

    def _send_piece(self, piece: Piece, offset: int, size: int) -> None:
        self._ask(
            verb("upload_piece"),
            (self._partial, str(offset), str(size)),
            what=self._destination,
            stdin=piece.blocks(),
            stdin_bytes=size,
            takes=True,
        )
        if piece.fault:
            raise piece.fault


SMALLEST_PIECE_BYTES = 1 << 18
LARGEST_PIECE_BYTES = 1 << 28
# Where others have no channel of their own. The next one costs 5 ms, which is much only in a piece of 0.05 s.
LARGEST_PIECE_ON_ONE_CHANNEL_BYTES = 1 << 24
# So long do others wait at most, on a connection that carries one request at a time.
_PIECE_SECONDS = 1.0
# Half of the weight on the last piece: a link that becomes slow is noticed with the next one.
_WEIGHT = 0.5


class Pacer:
    """Sizes pieces so that each takes about a second.

    Args:
        largest: The size of the largest piece that there may be; the first one is a 64th of it.
    """

    def __init__(self, largest: int = LARGEST_PIECE_BYTES) -> None:
        self._first = max(largest // 64, SMALLEST_PIECE_BYTES)
        self._bytes_per_second: float | None = None

    @property
    def piece_bytes(self) -> int:
        """The size of the next piece."""
        if self._bytes_per_second is None:
            return self._first
        return min(max(int(self._bytes_per_second * _PIECE_SECONDS), SMALLEST_PIECE_BYTES), LARGEST_PIECE_BYTES)

    def sent(self, size_bytes: int, seconds: float) -> None:
        """Take note of how long a piece took."""
        measured = size_bytes / max(seconds, 1e-6)
        known = self._bytes_per_second
        # The first piece is small and tells more about the delay than about the speed.
        first = known is None or known < measured
        self._bytes_per_second = measured if first or known is None else known + _WEIGHT * (measured - known)
