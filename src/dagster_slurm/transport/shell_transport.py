"""A transport over shells: what OpenSSH and this machine have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dagster_slurm.errors import (
    RemoteStorageError,
    TransferCorruptedError,
    TransportError,
)
from dagster_slurm.transport import content
from dagster_slurm.transport.base import DEFAULT_TIMEOUT_SECONDS, CompletedCommand, Transport, TreeEntry
from dagster_slurm.transport.channel import ShellChannel, shell_command
from dagster_slurm.transport.content import archive_tree
from dagster_slurm.transport.pool import ChannelPool
from dagster_slurm.transport.progress import ProgressCallback
from dagster_slurm.transport.shell import verb
from dagster_slurm.transport.upload import (
    LARGEST_PIECE_BYTES,
    LARGEST_PIECE_ON_ONE_CHANNEL_BYTES,
    ONE_REQUEST_BYTES,
    TakenOverError,
    Upload,
    file_parcel,
    tree_parcel,
)

THIS_MACHINE = "this machine"
"""The host of every `LocalTransport`."""
# EX_DATAERR and EX_NOINPUT of sysexits.h, as the scripts use them.
_CORRUPTED_STATUS = 65
_TAKEN_OVER_STATUS = 66
# Slower than this and the link is taken for dead; a floor, not an expectation.
_SLOWEST_BYTES_PER_SECOND = 50_000
_STORAGE_FAULTS = {
    "No space left on device": "Free space there, or choose another `remote_base`.",
    # What GNU tar says instead.
    "Wrote only": "The file system is full: free space there, or choose another `remote_base`.",
    "Disk quota exceeded": "Free some of your quota there, or choose another `remote_base`.",
    "Permission denied": "Choose a `remote_base` that this user may write to.",
    "Read-only file system": "Choose a `remote_base` on a file system that can be written.",
    "Not a directory": "A part of the path is a file; choose another `remote_base`.",
    "File exists": "A part of the path is a file; choose another `remote_base`.",
}


def upload_timeout_seconds(size_bytes: int) -> float:
    """How long to wait for the end of a request that brings so much."""
    return DEFAULT_TIMEOUT_SECONDS + size_bytes / _SLOWEST_BYTES_PER_SECOND


def storage_fault(said: str, *, what: str, host: str) -> RemoteStorageError | None:
    """The error for a message of the C library about a directory that cannot be used, if it is one."""
    for text, hint in _STORAGE_FAULTS.items():
        line = next((line for line in said.splitlines() if text in line), None)
        if line is not None:
            return RemoteStorageError(f"Cannot write {what}: {line[line.index(text) :]}", hint=hint, host=host)
    return None


def refuse_upload(answer: CompletedCommand, *, what: str, host: str) -> None:
    """Raise the error for an upload to `what` that has failed."""
    if answer.returncode == 0:
        return
    said = answer.reason
    if answer.returncode == _TAKEN_OVER_STATUS:
        raise TakenOverError(f"Another process goes on with the upload to {what}", host=host)
    fault = storage_fault(said, what=what, host=host)
    if fault is not None:
        raise fault
    if answer.returncode == _CORRUPTED_STATUS:
        raise TransferCorruptedError(f"What arrived for {what} is not what was sent: {said}", host=host)
    raise TransportError(f"Cannot write {what}: {said}", host=host)


class ShellTransport(Transport):
    """Runs everything through held-open POSIX shells.

    Args:
        host: How errors name the other end.
        channels: How many shells may be open at once.
        keep: Whether shells that nobody uses may stay open; None if they always may.
    """

    def __init__(self, host: str, *, channels: int, keep: Callable[[], bool] | None = None) -> None:
        self.host = host
        self._channels = channels
        self._pool = ChannelPool(self._open_channel, size=self._max_channels, keep=keep)
        self._asides = ChannelPool(self._open_aside, size=self._max_channels, keep=keep)

    def _max_channels(self) -> int:
        return self._channels

    def _has_to_spare(self) -> bool:
        """Whether there may be one more than others need."""
        return self._max_channels() > 1

    @abstractmethod
    def _open_channel(self) -> ShellChannel: ...

    def _open_aside(self) -> ShellChannel:
        """One that others can do without; raises a TransportError if there is none."""
        return self._open_channel()

    def run(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> CompletedCommand:
        return self._request(
            script,
            args,
            stdin=(stdin,) if stdin else (),
            stdin_bytes=len(stdin),
            timeout_seconds=timeout_seconds,
        )

    def run_aside(
        self, script: str, args: Sequence[str] = (), *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> CompletedCommand | None:
        if not self._has_to_spare():
            return None
        with self._naming_host(), self._asides.lend_idle() as channel:
            return None if channel is None else channel.request(script, args, timeout_seconds=timeout_seconds)

    def put(
        self,
        source: bytes | Path,
        destination: str,
        *,
        mode: int = 0o600,
        sha256: str = "",
        progress: ProgressCallback | None = None,
    ) -> None:
        parcel = file_parcel(source, *content.examine(source, sha256), what=destination)
        Upload(self._ask, parcel, destination, self._largest_piece, progress).as_file(mode)

    def put_tree(
        self, entries: Iterable[TreeEntry], destination: str, *, progress: ProgressCallback | None = None
    ) -> None:
        with ThreadPoolExecutor(1) as aside:
            # A login and the checksums of some thousand files take about as long as each other.
            connected = aside.submit(self.run, ":")
            archive = archive_tree(entries)
            parcel = tree_parcel(archive)
            connected.result()
        if parcel.size > ONE_REQUEST_BYTES:
            Upload(self._ask, parcel, destination, self._largest_piece, progress).as_tree(archive.checksums_name)
            return
        self._ask(
            verb("put_tree"),
            (destination, archive.checksums_name),
            what=destination,
            stdin=archive.blocks(),
            stdin_bytes=parcel.size,
        )

    def read_from(self, path: str, offset: int, max_bytes: int) -> bytes:
        args = (path, str(offset), str(max_bytes))
        answer = self._request(verb("read_from"), args, timeout_seconds=DEFAULT_TIMEOUT_SECONDS)
        if answer.returncode:
            raise TransportError(f"Cannot read {path}: {answer.reason}", host=self.host)
        return answer.stdout

    def close(self) -> None:
        self._pool.close()
        self._asides.close()

    def _largest_piece(self) -> int:
        return LARGEST_PIECE_BYTES if self._max_channels() > 1 else LARGEST_PIECE_ON_ONE_CHANNEL_BYTES

    def _ask(
        self,
        script: str,
        args: Sequence[str],
        *,
        what: str,
        stdin: Iterable[bytes] = (),
        stdin_bytes: int = 0,
        size_bytes: int = 0,
        takes: bool = False,
    ) -> CompletedCommand:
        """A request of an upload to `what`, which brings bytes there or reads some."""
        size = None if takes else stdin_bytes
        timeout_seconds = upload_timeout_seconds(stdin_bytes + size_bytes)
        answer = self._request(script, args, stdin=stdin, stdin_bytes=size, timeout_seconds=timeout_seconds)
        refuse_upload(answer, what=what, host=self.host)
        return answer

    def _request(
        self,
        script: str,
        args: Sequence[str],
        *,
        stdin: Iterable[bytes] = (),
        stdin_bytes: int | None = 0,
        timeout_seconds: float,
    ) -> CompletedCommand:
        with self._naming_host(), self._pool.lend() as channel:
            return channel.request(script, args, stdin=stdin, stdin_bytes=stdin_bytes, timeout_seconds=timeout_seconds)

    @contextmanager
    def _naming_host(self) -> Iterator[None]:
        try:
            yield
        except TransportError as error:
            error.host = error.host or self.host
            raise


class LocalTransport(ShellTransport):
    """The same shell scripts as over SSH, run by this machine's `sh`.

    Args:
        channels: How many shells may be open at once.
    """

    def __init__(self, *, channels: int = 2) -> None:
        super().__init__(THIS_MACHINE, channels=channels)

    def _open_channel(self) -> ShellChannel:
        return ShellChannel(("sh", "-c", shell_command()))
