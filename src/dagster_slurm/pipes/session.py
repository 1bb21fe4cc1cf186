"""Dagster Pipes at this end of one step: all that has to be built on Dagster's own context."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from dagster import (
    AssetCheckResult,
    AssetKey,
    DagsterInstance,
    DataProvenance,
    MaterializeResult,
    OpExecutionContext,
    PipesExecutionResult,
    PipesMessageHandler,
    PipesMessageReader,
    PipesSession,
    TimeWindow,
)
from dagster_pipes import (
    DAGSTER_PIPES_CONTEXT_ENV_VAR,
    DAGSTER_PIPES_MESSAGES_ENV_VAR,
    PipesDefaultContextLoader,
    PipesDefaultMessageWriter,
    PipesParams,
    encode_param,
)

from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.pipes.dagster_private import (
    PartitionEvents,
    dagster_run,
    expect_results,
    pipes_context_of,
    provenance_in,
    window_of,
    windows_of,
)
from dagster_slurm.pipes.step_logs import LabelledLogs, StepLogs
from dagster_slurm.transport.together import Gathered

_MOST_SHOWN = 10_000
# Of which Dagster's storage is asked at once.
_MOST_STEPS = 100


@dataclass(frozen=True)
class UnitSession:
    """What the payload of one unit says.

    Args:
        pipes: The session.
        reader: Takes its messages.
        logs: Take its output.
    """

    pipes: PipesSession
    reader: FedMessageReader
    logs: StepLogs | LabelledLogs

    def take(self, stream: str, data: bytes) -> None:
        """Pass on what it wrote to one of its streams."""
        if stream == "messages":
            self.reader.feed(data)
        else:
            self.logs.write(stream, data)

    def finish(self) -> None:
        """It has ended."""
        self.reader.finish()
        self.logs.finish()

    def materialized(self, metadata: Mapping[str, Any]) -> dict[AssetKey, MaterializeResult[Any]]:
        """What it has materialised: every asset of the step, with what was reported of it."""
        results = self.pipes.get_results(metadata=metadata)
        return {each.asset_key: each for each in results if isinstance(each, MaterializeResult) and each.asset_key}

    def checks(self) -> list[AssetCheckResult]:
        """Asset checks that it has reported."""
        return [each for each in self.pipes.get_reported_results() if isinstance(each, AssetCheckResult)]


@dataclass(frozen=True)
class UnitContexts:
    """The Pipes contexts of a step's units.

    Args:
        of_step: The context of the step as a whole.
        windows: What tells the time window of a partition, if they have one.
    """

    of_step: dict[str, Any]
    windows: Callable[[str], TimeWindow] | None

    def of(self, partition: str) -> dict[str, Any]:
        """The context of one partition, as a run of that partition alone has it; of the step for an empty name."""
        if not partition:
            return self.of_step
        return {
            **self.of_step,
            "partition_key": partition,
            "partition_key_range": {"start": partition, "end": partition},
            "partition_time_window": window_of(self.windows(partition)) if self.windows else None,
        }


def pipes_variables(*, context: str, messages: str) -> dict[str, str]:
    """What tells a payload where to find Pipes.

    Args:
        context: Path of its context, as the payload sees it.
        messages: Path of the file for its messages.
    """
    return {
        DAGSTER_PIPES_CONTEXT_ENV_VAR: encode_param({PipesDefaultContextLoader.FILE_PATH_KEY: context}),
        DAGSTER_PIPES_MESSAGES_ENV_VAR: encode_param({PipesDefaultMessageWriter.FILE_PATH_KEY: messages}),
    }


class StepPipes:
    """The sessions of one step.

    Args:
        context: The step's context.
    """

    def __init__(self, context: OpExecutionContext) -> None:
        self._context = context

    def session(self, partition: str, *, messages_path: str, logs: StepLogs) -> UnitSession:
        """A session for the payload of one unit.

        Args:
            partition: The partition key; empty for a payload that is the step's only one.
            messages_path: Path of the file for its messages.
            logs: The step's own logs.
        """
        reader = FedMessageReader(messages_path, is_one_of_many=bool(partition), tell=self._context.log.warning)
        handler = _MessageHandler(self._context, reader)
        # How its payload finds Pipes, `pipes_variables` says; this end of the session only takes messages.
        pipes = PipesSession(
            context_data={},  # type: ignore[typeddict-item]
            message_handler=handler,
            context_injector_params={},
            message_reader_params=reader.attach(handler),
            context=self._context,
        )
        return UnitSession(pipes, reader, LabelledLogs(logs, partition) if partition else logs)

    def contexts(self, extras: Mapping[str, Any] | None) -> UnitContexts:
        """What payloads find in their sessions."""
        of_step = pipes_context_of(with_provenance(self._context), extras)
        definition = self._context.assets_def.partitions_def if self._context.has_assets_def else None
        return UnitContexts(of_step, windows_of(definition))

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
    provenance = _PROVENANCE.ask((context.instance, context.selected_asset_keys))
    return cast(OpExecutionContext, _WithProvenance(context, provenance))


def _ask(
    questions: Sequence[tuple[DagsterInstance, Collection[AssetKey]]],
) -> list[dict[AssetKey, DataProvenance]]:
    """The provenance of the assets of several steps, which nearly always are of one instance."""
    wanted: dict[DagsterInstance, set[AssetKey]] = {}
    for instance, keys in questions:
        wanted.setdefault(instance, set()).update(keys)
    found = {instance: _ask_one(instance, keys) for instance, keys in wanted.items()}
    return [found[instance] for instance, _ in questions]


def _ask_one(instance: DagsterInstance, keys: Collection[AssetKey]) -> dict[AssetKey, DataProvenance]:
    # Not their records, a quarter of whose cost is what nobody asks for here.
    found = {}
    for key, latest in instance.event_log_storage.get_latest_materialization_events(sorted(keys)).items():
        provenance = None if latest is None else provenance_in(latest)
        if provenance is not None:
            found[key] = provenance
    return found


_PROVENANCE = Gathered(_ask, most=_MOST_STEPS)


class _MessageHandler(PipesMessageHandler):
    """As Dagster's; what is reported again counts as it was reported last: a job that was requeued reports anew."""

    def get_reported_results(self) -> Sequence[PipesExecutionResult]:
        newest = {
            (type(each), each.asset_key, getattr(each, "check_name", None)): each
            for each in super().get_reported_results()
        }
        return tuple(newest.values())


class FedMessageReader(PipesMessageReader):
    """Takes the messages as bytes, from whoever reads the payload's file; no thread, no sleep.

    Args:
        path: Path of the file the payload writes its messages to, as the payload sees it.
        is_one_of_many: Whether the run's log is spared the line with which a payload opens Pipes.
        tell: Told the text of a message that is none.
    """

    def __init__(
        self, path: str, *, is_one_of_many: bool = False, tell: Callable[[str], object] = lambda text: None
    ) -> None:
        self._path = path
        self._tell = tell
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
        except Exception:  # noqa: BLE001 - one message must not fail the work
            # Only the Pipes library should write there. The job is not to blame, and its result not to be lost.
            handler.report_pipes_framework_exception(
                f"the message {line[:200].decode(errors='backslashreplace')!r}", sys.exc_info()
            )
            self._tell(f"A message of the payload was passed over: {line[:_MOST_SHOWN].decode('utf-8', 'replace')}")

    def _opened_handler(self) -> PipesMessageHandler:
        if self._handler is None:
            raise DagsterSlurmError("Messages were read outside of a Pipes session")
        return self._handler


def _is_opening(line: bytes) -> bool:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and message.get("method") == "opened"
