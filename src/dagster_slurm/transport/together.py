"""Requests of threads that come at the same time, in one round trip.

While one round trip is under way, those that come meanwhile wait, and then go together. So a single thread waits for
nobody, and a hundred threads need a dozen round trips and one channel. Each script runs as it would alone.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4
from weakref import WeakKeyDictionary

from dagster_slurm.errors import ConnectionFailedError, DagsterSlurmError, InvalidRequestError
from dagster_slurm.transport.archive import archive_tree
from dagster_slurm.transport.base import (
    DEFAULT_TIMEOUT_SECONDS,
    CompletedCommand,
    Transport,
    TreeEntry,
    reading,
    whole_number,
)
from dagster_slurm.transport.progress import ProgressCallback
from dagster_slurm.transport.shell import quote, shell_file, with_arguments
from dagster_slurm.transport.shell_transport import ShellTransport, upload_timeout_seconds

MOST = 8
"""How many scripts run side by side at the far end; a login node counts a user's processes."""

_MOST_TREES = 32
# Each round trip starts some ten processes there, however many requests it carries. Who was not alone the last time
# waits for company, the longer the more it was; a single thread never does.
_GATHERING_SECONDS_EACH = 0.01
_GATHERING_MAX_SECONDS = 0.1
_NO_DIRECTORY_STATUS = 74


@dataclass
class _Request:
    """One script that is to be run, which may be one that puts a tree, and what came of it."""

    script: str = ""
    args: Sequence[str] = ()
    stdin: bytes = b""
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    files: Sequence[TreeEntry] = ()
    destination: str = ""
    answer: CompletedCommand | None = None
    error: BaseException | None = None
    leads: bool = False
    woken: threading.Event = field(default_factory=threading.Event)


class Together:
    """Runs scripts over a transport, several at once where several threads ask.

    Args:
        transport: The way to the machine.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._waiting: deque[_Request] = deque()
        self._is_led = False
        self._last_count = 1
        self._lock = threading.Lock()

    def run(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> CompletedCommand:
        """As `Transport.run`; for what is short, since the others wait for its end."""
        return self._answered(_Request(script, args, stdin, timeout_seconds))

    def put_tree(
        self, entries: Iterable[TreeEntry], destination: str, *, progress: ProgressCallback | None = None
    ) -> None:
        """As `Transport.put_tree`; small trees go together."""
        files = list(entries)
        if not isinstance(self._transport, ShellTransport) or not _are_small(files):
            self._transport.put_tree(files, destination, progress=progress)
            return
        self._transport.refuse_upload(self._answered(_one_tree(files, destination)), what=destination)

    def _answered(self, request: _Request) -> CompletedCommand:
        with self._lock:
            self._waiting.append(request)
            request.leads, self._is_led = not self._is_led, True
        if not request.leads:
            request.woken.wait()
        if request.leads:
            self._lead(request)
        if request.error is not None:
            raise request.error
        if request.answer is None:
            raise AssertionError("a request without an outcome")
        return request.answer

    def _lead(self, own: _Request) -> None:
        """Serve this thread's request with those in front of it and behind it; then let another lead."""
        try:
            while own.answer is None and own.error is None:
                batch = self._next_batch()
                self._serve(batch)
                for request in batch:
                    request.woken.set()
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._is_led = following is not None
                if following is not None:
                    following.leads = True
                    following.woken.set()

    def _next_batch(self) -> list[_Request]:
        if self._last_count > 1 and len(self._waiting) < MOST:
            time.sleep(min(_GATHERING_SECONDS_EACH * self._last_count, _GATHERING_MAX_SECONDS))
        batch: list[_Request] = []
        trees = 0
        with self._lock:
            while self._waiting and trees < _MOST_TREES and len(batch) - trees < MOST:
                batch.append(self._waiting.popleft())
                trees += bool(batch[-1].destination)
        self._last_count = len(batch)
        return batch

    def _serve(self, batch: Sequence[_Request]) -> None:
        try:
            merged = _many_trees([request for request in batch if request.destination])
            self._run(batch if merged is None else [*(each for each in batch if not each.destination), merged])
            for request in batch if merged else ():
                if request.destination and merged and merged.answer and merged.answer.returncode == 0:
                    request.answer = merged.answer
                elif request.destination:
                    self._run([request])
        except BaseException as error:  # noqa: BLE001 - raised again by each thread that waits
            for request in batch:
                if request.answer is None and request.error is None:
                    # Each thread adds its own traceback, and may add what it knows.
                    request.error = copy.copy(error) if isinstance(error, DagsterSlurmError) else error

    def _run(self, batch: Sequence[_Request]) -> None:
        if len(batch) > 1:
            nonce = uuid4().hex
            answer = self._transport.run(
                _combined(nonce, batch),
                (nonce,),
                stdin=b"".join(request.stdin for request in batch),
                timeout_seconds=max(request.timeout_seconds for request in batch),
            )
            if answer.returncode != _NO_DIRECTORY_STATUS:
                for request, each in zip(batch, self._taken_apart(answer, nonce, len(batch)), strict=True):
                    request.answer = each
                return
        for request in batch:
            request.answer = self._transport.run(
                request.script, request.args, stdin=request.stdin, timeout_seconds=request.timeout_seconds
            )

    def _taken_apart(self, answer: CompletedCommand, nonce: str, count: int) -> list[CompletedCommand]:
        with reading("The answers to several requests", host=self._transport.host):
            outs, errs = (_parts(stream, nonce.encode()) for stream in (answer.stdout, answer.stderr))
        if not len(outs) == len(errs) == count:
            raise ConnectionFailedError("The answer was cut off", host=self._transport.host)
        return [CompletedCommand(out, err, status) for (out, status), (err, _) in zip(outs, errs, strict=True)]


def _combined(nonce: str, batch: Sequence[_Request]) -> str:
    lines = (
        f"dagster_slurm_begin {len(request.stdin)} {quote(with_arguments(request.script, request.args))}"
        for request in batch
    )
    return "\n".join((_script("together.sh"), *lines, "dagster_slurm_answer"))


def _parts(stream: bytes, nonce: bytes) -> list[tuple[bytes, int]]:
    """What each script wrote, and its status."""
    found: list[tuple[bytes, int]] = []
    written, *rest = stream.split(b"\n" + nonce + b" ")
    for part in rest:
        status, end, following = part.partition(b"\n")
        if not end:
            break
        found.append((written, whole_number(status.decode("ascii"))))
        written = following
    return found


def _script(name: str) -> str:
    return shell_file("dagster_slurm.transport.scripts", name)


_known: WeakKeyDictionary[Transport, Together] = WeakKeyDictionary()
_known_lock = threading.Lock()


def together(transport: Transport) -> Together:
    """The one for a transport, which all that talk through it share."""
    with _known_lock:
        if transport not in _known:
            _known[transport] = Together(transport)
        return _known[transport]


_SMALL_BYTES = 256 << 10


def _are_small(files: Sequence[TreeEntry]) -> bool:
    """Whether others may wait for them, and whether they may be held in memory."""
    try:
        sizes = [len(each.source) if isinstance(each.source, bytes) else each.source.stat().st_size for each in files]
    except OSError:
        # Whoever reads the files says what is wrong with them.
        return False
    return sum(sizes) <= _SMALL_BYTES


def _one_tree(files: Sequence[TreeEntry], destination: str) -> _Request:
    """What puts one tree.

    Raises:
        InvalidRequestError: A name cannot be sent; see `archive_tree`.
    """
    archive = archive_tree(files)
    stdin = b"".join(archive.blocks())
    args = (destination, archive.checksums_name, str(len(files)))
    return _Request(
        _script("put_tree.sh"), args, stdin, upload_timeout_seconds(len(stdin)), files=files, destination=destination
    )


def _many_trees(requests: Sequence[_Request]) -> _Request | None:
    """What puts the trees of several, of one file system; if it fails, each is to be put by itself. None for one."""
    if len(requests) < 2:
        return None
    try:
        archive = archive_tree(
            replace(entry, name=f"{number}/{entry.name}")
            for number, request in enumerate(requests, start=1)
            for entry in request.files
        )
        stdin = b"".join(archive.blocks())
    except (InvalidRequestError, OSError):
        # A file of one of them is another by now; it was read before.
        return None
    # As put_tree.sh names what is not whole; only of digits, as a process id is.
    part = f"{requests[0].destination}.part.{uuid4().int}"
    args = (part, archive.checksums_name, *(request.destination for request in requests))
    return _Request(_script("put_trees.sh"), args, stdin, upload_timeout_seconds(len(stdin)))
