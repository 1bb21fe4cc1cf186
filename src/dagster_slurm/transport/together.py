"""Requests of threads that come at the same time, in one round trip.

While one round trip is under way, those that come meanwhile wait, and then go together. So a single thread waits for
nobody, and a hundred threads need a dozen round trips and one channel. Each script runs as it would alone.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
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
    """One script that is to be run, or one tree that is to be put, and what came of it."""

    script: str = ""
    args: Sequence[str] = ()
    stdin: bytes = b""
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    tree: SmallTree | None = None
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
        tree = SmallTree(list(entries), destination)
        if not isinstance(self._transport, ShellTransport) or not tree.is_small:
            self._transport.put_tree(tree.files, destination, progress=progress)
            return
        self._transport.refuse_upload(self._answered(_Request(tree=tree)), what=destination)

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
                self._gather()
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

    def _gather(self) -> None:
        if self._last_count > 1 and len(self._waiting) < MOST:
            time.sleep(min(_GATHERING_SECONDS_EACH * self._last_count, _GATHERING_MAX_SECONDS))

    def _next_batch(self) -> list[_Request]:
        batch: list[_Request] = []
        trees = 0
        with self._lock:
            while self._waiting and trees < _MOST_TREES and len(batch) - trees < MOST:
                batch.append(self._waiting.popleft())
                trees += batch[-1].tree is not None
        self._last_count = len(batch)
        return batch

    def _serve(self, batch: Sequence[_Request]) -> None:
        try:
            self._serve_all(batch)
        except BaseException as error:  # noqa: BLE001 - raised again by each thread that waits
            for request in batch:
                if request.answer is None and request.error is None:
                    # Each thread adds its own traceback, and may add what it knows.
                    request.error = copy.copy(error) if isinstance(error, DagsterSlurmError) else error

    def _serve_all(self, batch: Sequence[_Request]) -> None:
        trees = [request for request in batch if request.tree is not None]
        scripts = [request for request in batch if request.tree is None]
        merged = self._merged(trees)
        self._serve_scripts([*scripts, merged] if merged else scripts)
        for request in trees:
            if merged and merged.answer and merged.answer.returncode == 0:
                request.answer = merged.answer
            else:
                self._serve_tree(request)

    def _merged(self, requests: Sequence[_Request]) -> _Request | None:
        """The one request that puts the trees of several; None if each is to go by itself."""
        trees = [request.tree for request in requests if request.tree is not None]
        if len(trees) < 2:
            return None
        try:
            return _request_of(many_trees(trees))
        except (InvalidRequestError, OSError):
            # Of one of them, which is told by itself.
            return None

    def _serve_tree(self, request: _Request) -> None:
        if request.tree is None:
            raise AssertionError("not a tree")
        try:
            alone = _request_of(one_tree(request.tree))
        except (InvalidRequestError, OSError) as error:
            request.error = error
            return
        self._serve_scripts([alone])
        request.answer = alone.answer

    def _serve_scripts(self, batch: Sequence[_Request]) -> None:
        if batch:
            for request, answer in zip(batch, self._answers(batch), strict=True):
                request.answer = answer

    def _answers(self, batch: Sequence[_Request]) -> list[CompletedCommand]:
        if len(batch) > 1:
            nonce = uuid4().hex
            answer = self._transport.run(
                _combined(nonce, batch),
                (nonce,),
                stdin=b"".join(request.stdin for request in batch),
                timeout_seconds=max(request.timeout_seconds for request in batch),
            )
            if answer.returncode != _NO_DIRECTORY_STATUS:
                return self._taken_apart(answer, nonce, len(batch))
        return [self._alone(request) for request in batch]

    def _alone(self, request: _Request) -> CompletedCommand:
        return self._transport.run(
            request.script, request.args, stdin=request.stdin, timeout_seconds=request.timeout_seconds
        )

    def _taken_apart(self, answer: CompletedCommand, nonce: str, count: int) -> list[CompletedCommand]:
        with reading("The answers to several requests", host=self._transport.host):
            outs, errs = (_parts(stream, nonce.encode()) for stream in (answer.stdout, answer.stderr))
        if not len(outs) == len(errs) == count:
            raise ConnectionFailedError("The answer was cut off", host=self._transport.host)
        return [CompletedCommand(out, err, status) for (out, status), (err, _) in zip(outs, errs, strict=True)]


def _request_of(made: TreeRequest) -> _Request:
    return _Request(made.script, made.args, made.stdin, upload_timeout_seconds(len(made.stdin)))


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


@dataclass(frozen=True)
class SmallTree:
    """Files that are to become a directory.

    Args:
        files: What it is to hold.
        destination: Its absolute path.
    """

    files: Sequence[TreeEntry]
    destination: str

    @property
    def is_small(self) -> bool:
        """Whether others may wait for it, and whether it may be held in memory."""
        try:
            sizes = [
                len(each.source) if isinstance(each.source, bytes) else each.source.stat().st_size
                for each in self.files
            ]
        except OSError:
            # Whoever reads the files says what is wrong with them.
            return False
        return sum(sizes) <= _SMALL_BYTES

    def below(self, directory: str) -> Iterator[TreeEntry]:
        """Its files, in a directory of a larger tree."""
        return (replace(each, name=f"{directory}/{each.name}") for each in self.files)


@dataclass(frozen=True)
class TreeRequest:
    """What is to be run for trees."""

    script: str
    args: tuple[str, ...]
    stdin: bytes


def one_tree(tree: SmallTree) -> TreeRequest:
    """The request that puts one tree.

    Raises:
        InvalidRequestError: A name cannot be sent; see `archive_tree`.
    """
    archive = archive_tree(tree.files)
    args = (tree.destination, archive.checksums_name, str(len(tree.files)))
    return TreeRequest(_script("put_tree.sh"), args, b"".join(archive.blocks()))


def many_trees(trees: Sequence[SmallTree]) -> TreeRequest:
    """The request that puts several trees of one file system; if it fails, each is to be put by itself.

    Raises:
        InvalidRequestError: A name cannot be sent.
    """
    archive = archive_tree([entry for number, tree in enumerate(trees, start=1) for entry in tree.below(str(number))])
    # As put_tree.sh names what is not whole; only of digits, as a process id is.
    part = f"{trees[0].destination}.part.{uuid4().int}"
    args = (part, archive.checksums_name, *(tree.destination for tree in trees))
    return TreeRequest(_script("put_trees.sh"), args, b"".join(archive.blocks()))
