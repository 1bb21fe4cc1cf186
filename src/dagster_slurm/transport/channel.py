"""A held-open shell that answers requests, at the far end of a process such as `ssh` or `sh`.

A login costs a second and what a site allows of them; a request over a shell that is held open costs a round trip. The
first thing that is sent is the server, scripts/channel.sh, with a nonce: whatever a login prints before the server has
answered with it is noise, and nothing that a command prints later can be taken for the end of its answer. A request
says how long its script and its stdin are, so that the server reads these bytes and no more; a verb is sent when it is
called first, and is a function of the server from then on (ADR 24). An answer ends with the nonce and the status on
stdout, and with the nonce on stderr, and both are read side by side, or a full pipe would stop the far end. Where a
site gives a TTY alone there is one stream, made raw first. A channel that has lost its place (a time limit, half an
answer) is closed and never used again: the next request is another channel's (pool.py). Nothing is repeated here:
whether a request may be sent twice, its sender knows.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from typing import IO, cast
from uuid import uuid4

from dagster_slurm.errors import ConnectionFailedError, TransportError, TransportTimeoutError, UnreadableAnswerError
from dagster_slurm.transport.base import MOST_BYTES, CompletedCommand
from dagster_slurm.transport.shell import Verb, shell_file, verb, with_arguments

_BLOCK_BYTES = 1 << 16
# The system gives less if it allows no more (socket(7), SO_SNDBUF).
_SOCKET_BYTES = 1 << 20
_SAID_BYTES = 1 << 14
_RAW_MARK = "dagster-slurm-raw"
_NONCE_CHARACTERS = 32
ConnectionFault = Callable[[str, int | None], TransportError]
"""Turns what the connecting program said, and its exit status, into the error to raise."""


def shell_command(*, tty: bool = False) -> str:
    """What has to be run at the far end: a shell that takes the protocol from its stdin.

    Good for every login shell, for all of them read single quotes alike (sh, csh, fish). On a TTY, raw comes first: no
    echo, no LF turned into CRLF, no signal made of a byte.
    """
    serve = f"""exec sh -c 'eval "$(head -c {len(_greeting("0" * _NONCE_CHARACTERS, streams=2))})"'"""
    return f"stty raw -echo; echo {_RAW_MARK}; {serve}" if tty else serve


def _lost(said: str, returncode: int | None) -> TransportError:
    return ConnectionFailedError(f"The shell ended with status {returncode}: {said or 'it said nothing'}")


class ShellChannel:
    """One process, one shell at its far end, one request at a time.

    Args:
        argv: The program to start; it has to run `shell_command` at the far end.
        env: Its environment; this process's own if None.
        tty: Whether the far end is a TTY.
        fault: What to raise when the process ends by itself.
        connect_timeout_seconds: How long the first answer may take.
        on_start: Called with the process once it is started.
        on_close: Called when the channel is closed, once or more.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        tty: bool = False,
        fault: ConnectionFault = _lost,
        connect_timeout_seconds: float = 30.0,
        on_start: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._fault = fault
        self._on_close = on_close
        self._read: dict[str, Verb] = {}
        self._lifeline: int | None = None
        self._process = self._start(argv, env, tty=tty)
        self._tty = tty
        self._stdout, self._stderr = outputs = cast(
            "tuple[IO[bytes], IO[bytes]]", (self._process.stdout, self._process.stderr)
        )
        for pipe in (self._stdin, *outputs):
            os.set_blocking(pipe.fileno(), False)
        on_start(self._process)
        try:
            self._connect(time.monotonic() + connect_timeout_seconds)
        except TransportTimeoutError as error:
            raise TransportTimeoutError(
                f"The login's shell has taken no command within {connect_timeout_seconds:.0f} s",
                hint="What a login runs at its start, as ~/.bashrc or a post_login_command, may take that long.",
            ) from error

    def _start(self, argv: Sequence[str], env: Mapping[str, str] | None, *, tty: bool) -> subprocess.Popen[bytes]:
        # A pipe wakes its writer for each block that is read, a socket when most of its buffer is free: a large file
        # costs a tenth less of the processors (unix_writable in Linux' net/unix/af_unix.c).
        near, far = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self._stdin = os.fdopen(near.detach(), "wb", buffering=0)
        with ExitStack() as theirs:
            theirs.enter_context(far)
            held: tuple[int, ...] = ()
            if tty:
                reading, self._lifeline = os.pipe()
                theirs.callback(os.close, reading)
                held, argv = (reading,), _on_lifeline(reading, argv)
            # Its own session: Ctrl-C in a terminal is for Dagster, not for the connection.
            return subprocess.Popen(
                list(argv),
                stdin=far.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=None if env is None else dict(env),
                start_new_session=True,
                pass_fds=held,
            )

    def _connect(self, deadline: float) -> None:
        if self._tty:
            # Whatever is sent earlier, the line discipline would echo and edit.
            self._exchange([], _Marks(f"{_RAW_MARK}\n"), _Marks(), deadline)
        nonce = uuid4().hex
        ready = f"\n{nonce} ready\n"
        greeting = _greeting(nonce, streams=1 if self._tty else 2)
        self._exchange([greeting], _Marks(ready), _Marks() if self._tty else _Marks(ready), deadline)

    @property
    def usable(self) -> bool:
        """Whether the process lives and no request was broken off."""
        return self._process.poll() is None and not self._stdin.closed

    def request(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        stdin: Iterable[bytes] = (),
        stdin_bytes: int | None = 0,
        timeout_seconds: float,
    ) -> CompletedCommand:
        """Run a script and wait for its end.

        With None for `stdin_bytes`, the script's stdin is the channel's own, and the script takes from it exactly what
        `stdin` gives: large content then has one process less to pass through.

        Raises:
            TransportTimeoutError: No end in time. The channel is closed; the script may still run.
            TransportError: The connection broke, as `fault` says.
        """
        nonce = uuid4().hex
        texts = [(with_arguments(script, args), "own" if stdin_bytes is None else str(stdin_bytes))]
        if isinstance(script, Verb):
            for each in (script, *script.others):
                if self._read.get(each.name) != each:
                    texts.insert(0, (f"dagster_slurm_{each.name}() {{\n{each}}}", "verb"))
                    self._read[each.name] = each
        head = b""
        for text, follows in texts:
            sent = f"{text}\n#{nonce}".encode()
            head += f"{nonce} {len(sent)} {follows}\n".encode() + sent
        status, end = (f"\n{nonce} ", "\n"), f"\n{nonce} end\n"
        on_stdout, on_stderr = (_Marks(*status, end), _Marks()) if self._tty else (_Marks(*status), _Marks(end))
        self._exchange(chain((head,), stdin), on_stdout, on_stderr, time.monotonic() + timeout_seconds)
        stdout, code, stderr = (*on_stdout.parts, *on_stderr.parts)
        if not code.isdigit():
            raise UnreadableAnswerError(f"The status of a request is {code[:20].decode(errors='backslashreplace')!r}")
        return CompletedCommand(stdout, stderr, int(code))

    def close(self) -> None:
        """End the process; a script that is running ends with its next write, or runs to its end."""
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()
        try:
            # With a TTY it sees no end of its stdin.
            self._process.wait(timeout=0 if self._tty else 0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._let_go_of_lifeline()
        self._on_close()

    def _let_go_of_lifeline(self) -> None:
        if self._lifeline is not None:
            # The word that says that there is nothing to end any more.
            with suppress(BrokenPipeError):
                os.write(self._lifeline, b"\n")
            os.close(self._lifeline)
            self._lifeline = None

    def _exchange(self, sending: Iterable[bytes], on_stdout: _Marks, on_stderr: _Marks, deadline: float) -> None:
        marks = {self._stdout: on_stdout, self._stderr: on_stderr}
        try:
            with selectors.DefaultSelector() as selector:
                for pipe in marks:
                    selector.register(pipe, selectors.EVENT_READ)
                selector.register(self._stdin, selectors.EVENT_WRITE)
                self._pump(selector, marks, _Outbox(iter(sending)), deadline)
        except BaseException:
            # Broken off in the middle, be it by a signal: what is on the wire belongs to nobody.
            self.close()
            raise

    def _pump(
        self, selector: selectors.BaseSelector, marks: dict[IO[bytes], _Marks], outbox: _Outbox, deadline: float
    ) -> None:
        while not all(stream.complete for stream in marks.values()):
            remaining = deadline - time.monotonic()
            events = selector.select(max(remaining, 0.0))
            if not events and remaining <= 0:
                raise TransportTimeoutError("No answer in time; the command may still run")
            for key, _ in events:
                if key.fileobj is self._stdin:
                    if not outbox.send(self._stdin):
                        selector.unregister(self._stdin)
                elif not marks[key.fileobj].feed(key.fileobj):  # type: ignore[index,arg-type]
                    raise self._ended(marks)

    def _ended(self, marks: dict[IO[bytes], _Marks]) -> TransportError:
        """One of the streams is at its end: the far end is gone. Say why."""
        try:
            returncode: int | None = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            returncode = None
        marks[self._stderr].feed(self._stderr)
        said = marks[self._stderr].rest or marks[self._stdout].rest
        return self._fault(said[-_SAID_BYTES:].decode("utf-8", "replace").strip(), returncode)


class _Marks:
    """Collects a stream and cuts it at each of some marks, in their order; it is complete with the last."""

    def __init__(self, *marks: str) -> None:
        self._marks = [mark.encode() for mark in marks]
        self._data = bytearray()
        self._searched = 0
        self.parts: list[bytes] = []

    @property
    def complete(self) -> bool:
        return not self._marks

    @property
    def rest(self) -> bytes:
        """What came behind the last mark that was found."""
        return bytes(self._data)

    def feed(self, pipe: IO[bytes]) -> bool:
        """Read what is there. False at the end of the stream."""
        block = pipe.read(_BLOCK_BYTES)
        if block == b"":
            return False
        self._data += block or b""
        if len(self._data) > MOST_BYTES:
            raise UnreadableAnswerError(
                f"The answer has more than {MOST_BYTES >> 20} MiB, and no end", hint="It was broken off."
            )
        while self._marks and self._cut():
            pass
        return True

    def _cut(self) -> bool:
        mark = self._marks[0]
        at = self._data.find(mark, self._searched)
        if at < 0:
            self._searched = max(0, len(self._data) - len(mark))
            return False
        self.parts.append(bytes(self._data[:at]))
        del self._data[: at + len(mark)]
        self._searched = 0
        self._marks.pop(0)
        return True


class _Outbox:
    """Blocks to be written as the pipe takes them."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._pending = memoryview(b"")

    def send(self, pipe: IO[bytes]) -> bool:
        """Write what the pipe takes. False when there is nothing left."""
        if not self._pending:
            block = next(self._blocks, None)
            if block is None:
                return False
            self._pending = memoryview(block)
        try:
            self._pending = self._pending[pipe.write(self._pending) or 0 :]
        except (BrokenPipeError, ConnectionResetError):
            # The reading side tells why, and with what error.
            return False
        return True


def _on_lifeline(descriptor: int, argv: Sequence[str]) -> list[str]:
    """A command that ends with this process, however that ends."""
    script = shell_file("dagster_slurm.transport.scripts", "lifeline.sh")
    return ["sh", "-c", script, "lifeline", str(descriptor), *argv]


def _greeting(nonce: str, *, streams: int) -> bytes:
    """The far end's half of the protocol, always of one length."""
    return with_arguments(str(verb("dagster_slurm_serve")), (nonce, str(streams))).encode()
