"""Dagster Pipes at this end: the context that goes to the payload, and the messages that come back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dagster import DagsterError, PipesContextInjector, PipesMessageHandler, PipesMessageReader
from dagster_pipes import PipesContextData, PipesDefaultContextLoader, PipesDefaultMessageWriter, PipesParams

from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.pipes.dagster_private import CheckError


class FileContextInjector(PipesContextInjector):
    """Names the file in which the payload finds its context; `data` is what has to be put there.

    Args:
        path: Path of that file as the payload sees it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.data = b""

    @contextmanager
    def inject_context(self, context: PipesContextData) -> Iterator[PipesParams]:
        self.data = json.dumps(context).encode()
        yield {PipesDefaultContextLoader.FILE_PATH_KEY: self._path}

    def no_messages_debug_text(self) -> str:
        return f"Attempted to hand the context to the payload in the file {self._path}."


class FedMessageReader(PipesMessageReader):
    """Takes the messages as bytes, from whoever reads the payload's file; no thread, no sleep.

    Args:
        path: Path of the file the payload writes its messages to, as the payload sees it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._handler: PipesMessageHandler | None = None
        self._rest = b""

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        yield self.attach(handler)

    def attach(self, handler: PipesMessageHandler) -> PipesParams:
        """Hand messages to this handler from now on."""
        self._handler = handler
        return {PipesDefaultMessageWriter.FILE_PATH_KEY: self._path}

    @property
    def expected_writer_count(self) -> int:
        # Dagster's own property says the same, with a PreviewWarning in every run's output (1.13.27).
        return 1

    def no_messages_debug_text(self) -> str:
        return f"Attempted to read messages from the file {self._path}."

    def feed(self, data: bytes) -> None:
        """Handle every message that is whole; a line without its end waits for it."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._handle(line)

    def finish(self) -> None:
        """The payload has ended. One that never opened Pipes, as a plain program does, counts as done with it."""
        self.flush()
        handler = self._opened_handler()
        if not handler.received_opened_message:
            # What `open_pipes_session` would warn about is all right for a program that knows no Pipes.
            for method in ("opened", "closed"):
                handler.handle_message({"__dagster_pipes_version": "0.1", "method": method, "params": {}})

    def flush(self) -> None:
        """The payload has ended: a line without its end is all there is of it."""
        if self._rest:
            self._handle(self._rest)
            self._rest = b""

    def restart(self) -> None:
        """The job was requeued: what its payload says from now on begins anew."""
        self._rest = b""

    def _handle(self, line: bytes) -> None:
        handler = self._opened_handler()
        try:
            handler.handle_message(json.loads(line))
        except (ValueError, KeyError, TypeError, CheckError, DagsterError):
            # Only the Pipes library should write there. The job is not to blame, and its result not to be lost.
            handler.report_pipes_framework_exception(f"the message {line[:200]!r}", sys.exc_info())

    def _opened_handler(self) -> PipesMessageHandler:
        if self._handler is None:
            raise DagsterSlurmError("Messages were read outside of a Pipes session")
        return self._handler
