"""One Pipes session of one step: what both clients do before and after their payload runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dagster import OpExecutionContext, PipesSession, open_pipes_session

from dagster_slurm.pipes.messages import FedMessageReader, FileContextInjector
from dagster_slurm.pipes.provenance import with_provenance
from dagster_slurm.pipes.step_logs import StepLogs


@dataclass(frozen=True)
class PayloadSession:
    """An open session, with the ends of its three streams."""

    pipes: PipesSession
    reader: FedMessageReader
    logs: StepLogs
    context_data: bytes

    def variables(self, extra_env: Mapping[str, str] | None) -> dict[str, str]:
        """The payload's environment: the user's variables, and how to find Pipes."""
        # Into a file, Python writes in blocks; a line is to be seen when it is printed.
        return {"PYTHONUNBUFFERED": "1", **(extra_env or {}), **self.pipes.get_bootstrap_env_vars()}

    def take(self, stream: str, data: bytes) -> None:
        """Pass on what the payload wrote to one of its streams."""
        if stream == "messages":
            self.reader.feed(data)
        else:
            self.logs.write(stream, data)


@contextmanager
def payload_session(
    context: OpExecutionContext, extras: Mapping[str, Any] | None, *, context_path: str, messages_path: str
) -> Iterator[PayloadSession]:
    """Open a session whose payload finds its context, and writes its messages, at the given paths."""
    injector = FileContextInjector(context_path)
    reader = FedMessageReader(messages_path)
    with open_pipes_session(
        context=with_provenance(context),
        context_injector=injector,
        message_reader=reader,
        extras=None if extras is None else dict(extras),
    ) as session:
        yield PayloadSession(session, reader, StepLogs(), injector.data)
