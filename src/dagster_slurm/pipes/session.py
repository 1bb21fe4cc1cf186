"""Dagster Pipes at this end of one step: all that has to be built on Dagster's own context."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

from dagster import (
    AssetKey,
    DagsterInstance,
    DataProvenance,
    OpExecutionContext,
    PipesMessageHandler,
    PipesSession,
    TimeWindowPartitionsDefinition,
    open_pipes_session,
)

from dagster_slurm.pipes.dagster_private import (
    PartitionEvents,
    dagster_run,
    expect_results,
    pipes_context_of,
    provenance_in,
)
from dagster_slurm.pipes.elements import ElementContexts, ElementReader, ElementSession
from dagster_slurm.pipes.gathered import Gathered
from dagster_slurm.pipes.messages import FedMessageReader, FileContextInjector
from dagster_slurm.pipes.step_logs import LabelledLogs, StepLogs

_INTERVAL_SECONDS = 0.1
_known: WeakKeyDictionary[DagsterInstance, Gathered[AssetKey, DataProvenance]] = WeakKeyDictionary()
_known_lock = threading.Lock()


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


class StepPipes:
    """The sessions of one step.

    Args:
        context: The step's context.
    """

    def __init__(self, context: OpExecutionContext) -> None:
        self._context = context

    @contextmanager
    def session(
        self, extras: Mapping[str, Any] | None, *, context_path: str, messages_path: str
    ) -> Iterator[PayloadSession]:
        """Open a session whose payload finds its context, and writes its messages, at the given paths."""
        injector = FileContextInjector(context_path)
        reader = FedMessageReader(messages_path)
        with open_pipes_session(
            context=with_provenance(self._context),
            context_injector=injector,
            message_reader=reader,
            extras=None if extras is None else dict(extras),
        ) as session:
            yield PayloadSession(session, reader, StepLogs(), injector.data)

    def element(self, partition: str, *, messages_path: str, logs: StepLogs) -> ElementSession:
        """A session for one partition of many.

        Args:
            partition: The partition key.
            messages_path: Path of the file for its messages.
            logs: The step's own logs.
        """
        reader = ElementReader(messages_path)
        handler = PipesMessageHandler(self._context, reader)
        # How its payload finds Pipes, `partition_variables` says; this end of the session only takes messages.
        pipes = PipesSession(
            context_data={},  # type: ignore[typeddict-item]
            message_handler=handler,
            context_injector_params={},
            message_reader_params=reader.attach(handler),
            context=self._context,
        )
        return ElementSession(pipes, reader, LabelledLogs(logs, partition))

    def contexts(self, extras: Mapping[str, Any] | None) -> ElementContexts:
        """What the payloads of the partitions find in their sessions."""
        of_step = pipes_context_of(self._context, extras)
        definition = self._context.assets_def.partitions_def if self._context.has_assets_def else None
        return ElementContexts(of_step, definition if isinstance(definition, TimeWindowPartitionsDefinition) else None)

    def events(self) -> PartitionEvents:
        """Puts single partitions on record."""
        return PartitionEvents(self._context)

    def expect_results(self, what: str) -> None:
        """Let the step fail with these words if it returns nothing."""
        expect_results(self._context, what)


class _WithProvenance:
    """A step's context that knows its provenance already."""

    def __init__(self, context: OpExecutionContext, provenance: Mapping[AssetKey, DataProvenance]) -> None:
        self._context = context
        self._provenance = provenance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def get_asset_provenance(self, asset_key: AssetKey) -> DataProvenance | None:
        """As the method of the context."""
        return self._provenance.get(asset_key)


def with_provenance(context: OpExecutionContext) -> OpExecutionContext:
    """The context, with the provenance of its assets asked for together with that of other steps.

    Dagster asks twice for each asset of each step (1.13, `get_asset_provenance`): for a hundred steps that begin
    at the same time, a tenth of what their run costs.
    """
    if dagster_run(context) is None or not context.has_assets_def:
        return context
    provenance = _questions(context.instance).ask(context.selected_asset_keys)
    return cast(OpExecutionContext, _WithProvenance(context, provenance))


def _questions(instance: DagsterInstance) -> Gathered[AssetKey, DataProvenance]:
    with _known_lock:
        if instance not in _known:
            _known[instance] = Gathered(lambda keys: _ask(instance, keys), _INTERVAL_SECONDS)
        return _known[instance]


def _ask(instance: DagsterInstance, keys: Collection[AssetKey]) -> dict[AssetKey, DataProvenance]:
    found = {}
    for record in instance.get_asset_records(sorted(keys)):
        latest = record.asset_entry.last_materialization
        provenance = None if latest is None else provenance_in(latest)
        if provenance is not None:
            found[record.asset_entry.asset_key] = provenance
    return found
