"""The messages of a payload, taken as bytes from whoever reads its file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dagster import DagsterError, PipesMessageHandler, PipesMessageReader
from dagster_pipes import PipesDefaultMessageWriter, PipesParams

from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.pipes.dagster_private import CheckError


class FedMessageReader(PipesMessageReader):
    """Takes the messages as bytes, from whoever reads the payload's file; no thread, no sleep.

    Args:
        path: Path of the file the payload writes its messages to, as the payload sees it.
        is_one_of_many: Whether the run's log is spared the line with which a payload opens Pipes.
    """

    def __init__(self, path: str, *, is_one_of_many: bool = False) -> None:
        self._path = path
        self._is_one_of_many = is_one_of_many
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
        """The payload has ended: a line without its end is all there is of it."""
        if self._rest:
            self._handle(self._rest)
            self._rest = b""

    @property
    def is_cut_off(self) -> bool:
        """Whether the payload has opened Pipes, and has not closed it."""
        handler = self._opened_handler()
        return handler.received_opened_message and not handler.received_closed_message

    def restart(self) -> None:
        """The job was requeued: what its payload says from now on begins anew."""
        self._rest = b""

    def _handle(self, line: bytes) -> None:
        if self._is_one_of_many and _is_opening(line):
            return
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


def _is_opening(line: bytes) -> bool:
    try:
        message = json.loads(line)
    except ValueError:
        return False
    return isinstance(message, dict) and message.get("method") == "opened"
