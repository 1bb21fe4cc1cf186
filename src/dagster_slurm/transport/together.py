"""What threads ask at the same time, asked together; and many small things in few round trips.

While some are being answered, those that come meanwhile wait, and then go together. So a single thread waits for
nobody, and a hundred threads need a dozen round trips and one channel.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary

from dagster_slurm.errors import ConnectionFailedError, DagsterSlurmError
from dagster_slurm.transport.base import DEFAULT_TIMEOUT_SECONDS, CompletedCommand, Transport, reading, whole_number
from dagster_slurm.transport.shell import Verb, verb, with_arguments

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")

MOST = 8
"""How many scripts run side by side at the far end; a login node counts a user's processes."""

_NO_DIRECTORY_STATUS = 74
# Each round trip starts some ten processes there, however many questions it carries. Who was not alone the last time
# waits for company, the longer the more it was; a single thread never does.
_GATHERING_SECONDS_EACH = 0.01
_GATHERING_MAX_SECONDS = 0.1


@dataclass
class _Asked(Generic[Q, A]):
    """A question, and what came of it."""

    question: Q
    answer: A | None = None
    error: BaseException | None = None
    leads: bool = False
    woken: threading.Event = field(default_factory=threading.Event)


class Gathered(Generic[Q, A]):
    """Passes on questions, several at once where several threads ask.

    Args:
        serve: Answers some, in their order. An error is everybody's.
        most: How many at once.
    """

    def __init__(self, serve: Callable[[Sequence[Q]], Sequence[A]], *, most: int) -> None:
        self._serve = serve
        self._most = most
        self._waiting: list[_Asked[Q, A]] = []
        self._is_led = False
        self._last_count = 1
        self._lock = threading.Lock()

    def ask(self, question: Q) -> A:
        """The answer to a question."""
        asked: _Asked[Q, A] = _Asked(question)
        with self._lock:
            self._waiting.append(asked)
            asked.leads, self._is_led = not self._is_led, True
        if not asked.leads:
            asked.woken.wait()
        if asked.leads:
            self._lead(asked)
        if asked.error is not None:
            raise asked.error
        if asked.answer is None:
            raise AssertionError("a question without an outcome")
        return asked.answer

    def _lead(self, own: _Asked[Q, A]) -> None:
        """Serve this thread's question with those in front of it and behind it; then let another lead."""
        try:
            while own.answer is None and own.error is None:
                batch = self._next_batch()
                self._answer(batch)
                for asked in batch:
                    asked.woken.set()
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._is_led = following is not None
                if following is not None:
                    following.leads = True
                    following.woken.set()

    def _next_batch(self) -> list[_Asked[Q, A]]:
        if self._last_count > 1 and len(self._waiting) < self._most:
            time.sleep(min(_GATHERING_SECONDS_EACH * self._last_count, _GATHERING_MAX_SECONDS))
        with self._lock:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        self._last_count = len(batch)
        return batch

    def _answer(self, batch: Sequence[_Asked[Q, A]]) -> None:
        try:
            answers = self._serve([asked.question for asked in batch])
            for asked, answer in zip(batch, answers, strict=True):
                asked.answer = answer
        except BaseException as error:  # noqa: BLE001 - raised again by each thread that waits
            for asked in batch:
                if asked.answer is None:
                    # Each thread adds its own traceback, and may add what it knows.
                    asked.error = copy.copy(error) if isinstance(error, DagsterSlurmError) else error


@dataclass(frozen=True)
class _Request:
    script: str
    args: Sequence[str]
    stdin: bytes
    timeout_seconds: float


class Together:
    """Runs scripts over a transport, several at once where several threads ask; each runs as it would alone.

    Args:
        transport: The way to the machine.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._gathered = Gathered(self._serve, most=MOST)

    def run(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> CompletedCommand:
        """As `Transport.run`; for what is short, since the others wait for its end."""
        return self._gathered.ask(_Request(script, args, stdin, timeout_seconds))

    def _serve(self, batch: Sequence[_Request]) -> Sequence[CompletedCommand]:
        if len(batch) > 1:
            nonce = uuid4().hex
            script, args = _combined(nonce, batch)
            answer = self._transport.run(
                script,
                args,
                stdin=b"".join(request.stdin for request in batch),
                timeout_seconds=max(request.timeout_seconds for request in batch),
            )
            if answer.returncode != _NO_DIRECTORY_STATUS:
                return taken_apart(answer, nonce, len(batch), host=self._transport.host)
        return [
            self._transport.run(
                request.script, request.args, stdin=request.stdin, timeout_seconds=request.timeout_seconds
            )
            for request in batch
        ]


def _combined(nonce: str, batch: Sequence[_Request]) -> tuple[Verb, Sequence[str]]:
    script = copy.copy(verb("together"))
    script.others = tuple(request.script for request in batch if isinstance(request.script, Verb))
    args = [nonce]
    for request in batch:
        args += (str(len(request.stdin)), with_arguments(request.script, request.args))
    return script, args


def taken_apart(answer: CompletedCommand, nonce: str, count: int, *, host: str) -> list[CompletedCommand]:
    """The answers to several questions: on both streams, each ends with "NEWLINE NONCE SPACE STATUS NEWLINE".

    Raises:
        ConnectionFailedError: There are less than so many.
    """
    with reading("The answers to several requests", host=host):
        outs, errs = (_parts(stream, nonce.encode()) for stream in (answer.stdout, answer.stderr))
    if not len(outs) == len(errs) == count:
        raise ConnectionFailedError(f"The answer was cut off: {_last_words(answer, nonce)}", host=host)
    return [CompletedCommand(out, err, status) for (out, status), (err, _) in zip(outs, errs, strict=True)]


def _last_words(answer: CompletedCommand, nonce: str) -> str:
    """What the shell has said behind the last whole answer: where a user's processes are limited, "Cannot fork"."""
    whole, mark, rest = answer.stderr.rpartition(f"\n{nonce} ".encode())
    said = rest.partition(b"\n")[2] if mark else whole + rest
    return replace(answer, stdout=b"", stderr=said).reason


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


_known: WeakKeyDictionary[Transport, Together] = WeakKeyDictionary()
_known_lock = threading.Lock()


def together(transport: Transport) -> Together:
    """The one for a transport, which all that talk through it share."""
    with _known_lock:
        if transport not in _known:
            _known[transport] = Together(transport)
        return _known[transport]


def batches(items: Iterable[T], size: Callable[[T], int], *, max_bytes: int, max_count: int) -> Iterator[list[T]]:
    """The items in their order, in lists that are not too large; what is too large by itself is in one of its own."""
    batch: list[T] = []
    total = 0
    for item in items:
        if batch and (total + size(item) > max_bytes or len(batch) == max_count):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch
