"""An upload in pieces: it goes on from what an earlier try has brought there, and lets other requests in between.

The partial file lies beside its destination; its name says what is uploaded where, and who writes to it.
"""

from __future__ import annotations

import os
import posixpath
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from dagster_slurm.errors import InvalidRequestError, TransferCorruptedError
from dagster_slurm.transport.base import CompletedCommand, reading
from dagster_slurm.transport.content import Remainder
from dagster_slurm.transport.parcel import FileRange, Parcel, Piece, Stream, name_of, remainder_of_next
from dagster_slurm.transport.progress import ProgressCallback, ProgressReport
from dagster_slurm.transport.shell import shell_file

ONE_REQUEST_BYTES = 4 << 20
"""What is no larger is sent in one request."""

# A writer that has sent nothing for so long is dead: a dead link is found in 30 s (ServerAliveInterval).
LEASE_SECONDS = 40


class Ask(Protocol):
    """Runs a script at the far end, and raises the error that fits if it fails.

    A script that `takes` its stdin takes from the channel itself what `stdin` gives, to the byte.
    """

    def __call__(
        self,
        script: str,
        args: Sequence[str],
        *,
        what: str,
        stdin: Iterable[bytes | FileRange] = (),
        stdin_bytes: int = 0,
        takes: bool = False,
    ) -> CompletedCommand: ...


@dataclass(frozen=True)
class Partial:
    """The partial file of one upload by one writer."""

    destination: str
    digest: str
    writer: str

    @property
    def directory(self) -> str:
        """Where it lies: on the destination's file system."""
        return posixpath.dirname(self.destination) or "."

    @property
    def stem(self) -> str:
        """What the names of all partial files for this destination begin with."""
        return name_of(self.destination)

    @property
    def name(self) -> str:
        """What the names of all partial files of this content for this destination begin with."""
        return f"{self.stem}.{self.digest[:32]}"

    @property
    def path(self) -> str:
        """The file itself."""
        return f"{self.directory}/{self.name}.{self.writer}.part"


def upload_file(
    ask: Ask,
    parcel: Parcel,
    destination: str,
    *,
    mode: int,
    largest_piece: Callable[[], int],
    progress: ProgressCallback | None,
) -> None:
    """Upload one file in pieces; see `Transport.put` for what is raised."""
    with _WRITERS.writing(destination, parcel) as partial:
        upload = _Upload(ask, parcel, partial, largest_piece, progress)
        with upload.sent("file") as stream:
            if stream is None:
                return
            whole = stream.finish()
            expected = whole.without(upload.checked) if whole else Remainder()
            args = (f"{mode:o}", str(parcel.size), str(upload.checked.size_bytes), str(expected.cksum))
            old = f"{partial.directory}/{partial.stem}"
            upload.ask("upload_publish.sh", partial.path, destination, *args, old, str(LEASE_SECONDS))


def upload_tree(
    ask: Ask,
    parcel: Parcel,
    destination: str,
    *,
    checksums_name: str,
    largest_piece: Callable[[], int],
    progress: ProgressCallback | None,
) -> None:
    """Upload a tree in pieces and unpack it there; see `Transport.put_tree` for what is raised."""
    with _WRITERS.writing(destination, parcel) as partial:
        upload = _Upload(ask, parcel, partial, largest_piece, progress)
        with upload.sent("tree") as stream:
            if stream is not None:
                args = (str(parcel.size), _script("put_tree.sh"), destination, checksums_name)
                upload.ask("upload_unpack.sh", partial.path, *args)


def _sum_in(printed: str) -> Remainder:
    with reading("The checksum of what has arrived"):
        return Remainder.from_cksum(printed)


class _Upload:
    """One try.

    Attributes:
        checked: What the far end has summed of what lies there.
    """

    def __init__(
        self,
        ask: Ask,
        parcel: Parcel,
        partial: Partial,
        largest_piece: Callable[[], int],
        progress: ProgressCallback | None,
    ) -> None:
        self._ask = ask
        self._parcel = parcel
        self._partial = partial
        self._largest_piece = largest_piece
        self._progress = progress
        self.checked = Remainder()

    def ask(self, script: str, *args: str) -> CompletedCommand:
        return self._ask(_script(script), args, what=self._partial.destination)

    @contextmanager
    def sent(self, kind: str) -> Iterator[Stream | None]:
        """Have everything arrive in the partial file; None if the destination is there already."""
        for how in ("continue", "fresh"):
            arrived = self._begin(kind, how)
            if arrived is None:
                yield None
                return
            try:
                with self._parcel.open() as stream:
                    if remainder_of_next(stream, arrived.size_bytes) != arrived:
                        continue
                    self.checked = arrived
                    self._send(stream, arrived.size_bytes)
                    yield stream
                    return
            except InvalidRequestError:
                self._ask('rm -f -- "$1"', (self._partial.path,), what=self._partial.destination)
                raise
        raise TransferCorruptedError(f"Something else is written to the partial file of {self._partial.destination}")

    def _begin(self, kind: str, how: str) -> Remainder | None:
        it = self._partial
        args = (it.destination, it.directory, it.name, it.writer, str(LEASE_SECONDS), kind, how)
        printed = self.ask("upload_begin.sh", *args).text
        return None if printed.strip() == "there" else _sum_in(printed)

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
        args = (self._partial.path, *map(str, (offset, size, self.checked.size_bytes)))
        answer = self._ask(
            _script("upload_piece.sh"),
            args,
            what=self._partial.destination,
            stdin=piece.blocks(),
            stdin_bytes=size,
            takes=True,
        )
        if piece.fault:
            raise piece.fault
        if offset > self.checked.size_bytes:
            self.checked += _sum_in(answer.text)
        if self.checked.size_bytes != offset:
            # What a broken connection had still on the way came later; the next try finds it there.
            raise TransferCorruptedError(f"More than was sent has arrived for {self._partial.destination}")


class _Writers:
    """Gives every upload of this process a partial file of its own, and the next try the one of the last."""

    def __init__(self) -> None:
        self._process = -1
        self._token = ""
        self._active: set[Partial] = set()
        self._lock = threading.Lock()

    @contextmanager
    def writing(self, destination: str, parcel: Parcel) -> Iterator[Partial]:
        with self._lock:
            if self._process != os.getpid():
                self._process, self._token, self._active = os.getpid(), uuid4().hex[:16], set()
            partial = Partial(destination, parcel.digest, self._token)
            if partial in self._active:
                partial = Partial(destination, parcel.digest, uuid4().hex[:16])
            self._active.add(partial)
        try:
            yield partial
        finally:
            with self._lock:
                self._active.discard(partial)


_WRITERS = _Writers()


def _script(name: str) -> str:
    return shell_file("dagster_slurm.transport.scripts", name)


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
