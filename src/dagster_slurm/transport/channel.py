"""A held-open shell that answers requests, at the far end of a process such as `ssh` or `sh`.

Answers are framed with a nonce, so that nothing a login shell prints is taken for one (scripts/channel.sh).
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO
from uuid import uuid4

from dagster_slurm.errors import ConnectionFailedError, TransportError, TransportTimeoutError
from dagster_slurm.transport.base import CompletedCommand
from dagster_slurm.transport.shell import shell_file, with_arguments

_BLOCK_BYTES = 1 << 16
ConnectionFault = Callable[[str, int | None], TransportError]
"""Turns what the connecting program said, and its exit status, into the error to raise."""


def _lost(said: str, returncode: int | None) -> TransportError:
    return ConnectionFailedError(f"The shell ended with status {returncode}: {said or 'it said nothing'}")


class ShellChannel:
    """One process, one shell at its far end, one request at a time.

    Args:
        argv: The program to start; it has to end in a POSIX shell that reads its stdin.
        fault: What to raise when the process ends by itself.
        connect_timeout_seconds: How long the first answer may take.
        on_close: Called when the channel is closed, once or more.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        fault: ConnectionFault = _lost,
        connect_timeout_seconds: float = 30.0,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._fault = fault
        self._on_close = on_close
        # Its own session: Ctrl-C in a terminal is for Dagster, not for the connection.
        self._process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self._stdin, self._stdout, self._stderr = self._pipes()
        nonce = uuid4().hex
        greeting = shell_file("dagster_slurm.transport.scripts", "channel.sh")
        self._exchange(
            [f"{greeting}\ndagster_slurm_serve {nonce}\n".encode()],
            stdout_end=_Frame(f"\n{nonce} ready\n".encode()),
            stderr_end=_Frame(f"\n{nonce} ready\n".encode()),
            timeout_seconds=connect_timeout_seconds,
        )

    def _pipes(self) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        stdin, stdout, stderr = (pipe for pipe in pipes if pipe is not None)
        for pipe in (stdin, stdout, stderr):
            os.set_blocking(pipe.fileno(), False)
        return stdin, stdout, stderr

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
        stdin_bytes: int = 0,
        timeout_seconds: float,
    ) -> CompletedCommand:
        """Run a script and wait for its end.

        Raises:
            TransportTimeoutError: No end in time. The channel is closed; the script may still run.
            TransportError: The connection broke, as `fault` says.
        """
        nonce = uuid4().hex
        text = with_arguments(script, args).encode()
        head = f"{nonce} {len(text)} {stdin_bytes}\n".encode() + text
        end_of_stdout = _Frame(f"\n{nonce} ".encode(), until=b"\n")
        end_of_stderr = _Frame(f"\n{nonce}\n".encode())
        self._exchange(
            _chain(head, stdin),
            stdout_end=end_of_stdout,
            stderr_end=end_of_stderr,
            timeout_seconds=timeout_seconds,
        )
        return CompletedCommand(end_of_stdout.before, end_of_stderr.before, int(end_of_stdout.after))

    def close(self) -> None:
        """End the process; a script that is running ends with its next write, or runs to its end."""
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()
        try:
            self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._on_close()

    def _exchange(
        self,
        sending: Iterable[bytes],
        *,
        stdout_end: _Frame,
        stderr_end: _Frame,
        timeout_seconds: float,
    ) -> None:
        frames = {self._stdout: stdout_end, self._stderr: stderr_end}
        try:
            with selectors.DefaultSelector() as selector:
                for pipe in frames:
                    selector.register(pipe, selectors.EVENT_READ)
                selector.register(self._stdin, selectors.EVENT_WRITE)
                self._pump(selector, frames, _Outbox(iter(sending)), time.monotonic() + timeout_seconds)
        except BaseException:
            # Broken off in the middle, be it by a signal: what is on the wire belongs to nobody.
            self.close()
            raise

    def _pump(
        self,
        selector: selectors.BaseSelector,
        frames: dict[IO[bytes], _Frame],
        outbox: _Outbox,
        deadline: float,
    ) -> None:
        while not all(frame.complete for frame in frames.values()):
            remaining = deadline - time.monotonic()
            events = selector.select(max(remaining, 0.0))
            if not events and remaining <= 0:
                raise TransportTimeoutError("No answer in time; the command may still run")
            for key, _ in events:
                pipe = key.fileobj
                if pipe is self._stdin:
                    if not outbox.send(self._stdin):
                        selector.unregister(pipe)
                elif not frames[pipe].feed(pipe):  # type: ignore[index,arg-type]
                    self._ended(selector, frames)

    def _ended(self, selector: selectors.BaseSelector, frames: dict[IO[bytes], _Frame]) -> None:
        """One of the pipes is at its end: the process is going; say why."""
        try:
            returncode: int | None = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            returncode = None
        frames[self._stderr].feed(self._stderr)
        said = frames[self._stderr].everything.decode("utf-8", "replace").strip()
        raise self._fault(said, returncode)


class _Frame:
    """Collects one stream up to its end mark, and what stands between the mark and `until`."""

    def __init__(self, mark: bytes, until: bytes = b"") -> None:
        self._mark = mark
        self._until = until
        self._data = bytearray()
        self._searched = 0
        self.complete = False
        self.before = b""
        self.after = b""

    @property
    def everything(self) -> bytes:
        return bytes(self._data)

    def feed(self, pipe: IO[bytes]) -> bool:
        """Read what is there. False at the end of the stream."""
        block = pipe.read(_BLOCK_BYTES)
        if block == b"":
            return False
        self._data += block or b""
        if not self.complete:
            self._look()
        return True

    def _look(self) -> None:
        at = self._data.find(self._mark, self._searched)
        if at < 0:
            self._searched = max(0, len(self._data) - len(self._mark))
            return
        start = at + len(self._mark)
        end = self._data.find(self._until, start)
        if end >= 0:
            self.before, self.after = bytes(self._data[:at]), bytes(self._data[start:end])
            self.complete = True


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
        except BrokenPipeError:
            # The reading side tells why, and with what error.
            return False
        return True


def _chain(head: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest
