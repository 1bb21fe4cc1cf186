"""Scripts of threads that come at the same time, in one round trip. Each runs as it would alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid4
from weakref import WeakKeyDictionary

from dagster_slurm.errors import ConnectionFailedError
from dagster_slurm.transport.base import DEFAULT_TIMEOUT_SECONDS, CompletedCommand, Transport, reading, whole_number
from dagster_slurm.transport.gathered import Gathered
from dagster_slurm.transport.shell import quote, shell_file, with_arguments

MOST = 8
"""How many scripts run side by side at the far end; a login node counts a user's processes."""

_NO_DIRECTORY_STATUS = 74


@dataclass(frozen=True)
class _Request:
    script: str
    args: Sequence[str]
    stdin: bytes
    timeout_seconds: float


class Together:
    """Runs scripts over a transport, several at once where several threads ask.

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
            answer = self._transport.run(
                _combined(nonce, batch),
                (nonce,),
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


def _combined(nonce: str, batch: Sequence[_Request]) -> str:
    lines = (
        f"dagster_slurm_begin {len(request.stdin)} {quote(with_arguments(request.script, request.args))}"
        for request in batch
    )
    together_sh = shell_file("dagster_slurm.transport.scripts", "together.sh")
    return "\n".join((together_sh, *lines, "dagster_slurm_answer"))


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
