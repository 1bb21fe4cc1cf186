"""One partition of a step that runs many at once: its Pipes context, its messages, its log lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetKey,
    MaterializeResult,
    OpExecutionContext,
    PipesMessageHandler,
    PipesSession,
    TimeWindowPartitionsDefinition,
)
from dagster_pipes import (
    DAGSTER_PIPES_CONTEXT_ENV_VAR,
    DAGSTER_PIPES_MESSAGES_ENV_VAR,
    PipesDefaultContextLoader,
    PipesDefaultMessageWriter,
    encode_param,
)

from dagster_slurm.pipes.dagster_private import pipes_context_of
from dagster_slurm.pipes.messages import FedMessageReader
from dagster_slurm.pipes.step_logs import LabelledLogs, StepLogs

PARTITION_VARIABLE = "DAGSTER_SLURM_PARTITION_KEY"


class StepContexts:
    """The Pipes contexts of a step's partitions.

    Args:
        step: The step's context.
        extras: Values for the payloads.
    """

    def __init__(self, step: OpExecutionContext, extras: Mapping[str, Any] | None) -> None:
        self._of_step = pipes_context_of(step, extras)
        definition = step.assets_def.partitions_def if step.has_assets_def else None
        self._windows = definition if isinstance(definition, TimeWindowPartitionsDefinition) else None

    @property
    def of_step(self) -> dict[str, Any]:
        """The context of the step as a whole."""
        return self._of_step

    def of(self, partition: str) -> dict[str, Any]:
        """The context of one partition, as a run of that partition alone has it."""
        window = self._windows.time_window_for_partition_key(partition) if self._windows else None
        return {
            **self._of_step,
            "partition_key": partition,
            "partition_key_range": {"start": partition, "end": partition},
            "partition_time_window": window and {"start": window.start.isoformat(), "end": window.end.isoformat()},
        }


def partition_variables(partition: str, *, context: str, messages: str) -> dict[str, str]:
    """What tells a payload its partition, and where to find Pipes.

    Args:
        partition: The partition key.
        context: Path of its context, as the payload sees it.
        messages: Path of the file for its messages.
    """
    return {
        PARTITION_VARIABLE: partition,
        DAGSTER_PIPES_CONTEXT_ENV_VAR: encode_param({PipesDefaultContextLoader.FILE_PATH_KEY: context}),
        DAGSTER_PIPES_MESSAGES_ENV_VAR: encode_param({PipesDefaultMessageWriter.FILE_PATH_KEY: messages}),
    }


class ElementSession:
    """What one partition's payload says.

    Args:
        step: The step's context.
        partition: The partition key.
        messages: Path of the file for its messages.
        logs: The step's own logs.
    """

    def __init__(self, step: OpExecutionContext, partition: str, *, messages: str, logs: StepLogs) -> None:
        self.reader = _ElementReader(messages)
        handler = PipesMessageHandler(step, self.reader)
        # How its payload finds Pipes, `partition_variables` says; this end of the session only takes messages.
        self._pipes = PipesSession(
            context_data={},  # type: ignore[typeddict-item]
            message_handler=handler,
            context_injector_params={},
            message_reader_params=self.reader.attach(handler),
            context=step,
        )
        self.logs = LabelledLogs(logs, partition)

    def take(self, stream: str, data: bytes) -> None:
        """Pass on what it wrote to one of its streams."""
        if stream == "messages":
            self.reader.feed(data)
        else:
            self.logs.write(stream, data)

    def finish(self) -> None:
        """It has ended."""
        self.reader.flush()
        self.logs.finish()

    def materialized(self, metadata: Mapping[str, Any]) -> dict[AssetKey, MaterializeResult[Any]]:
        """What it has materialised: every asset of the step, with what was reported of it."""
        results = self._pipes.get_results(metadata=metadata)
        return {each.asset_key: each for each in results if isinstance(each, MaterializeResult) and each.asset_key}

    def checks(self) -> list[AssetCheckResult]:
        """Asset checks that it has reported."""
        return [each for each in self._pipes.get_reported_results() if isinstance(each, AssetCheckResult)]

    def custom_messages(self) -> list[Any]:
        """Its custom messages."""
        return list(self._pipes.get_custom_messages())


class _ElementReader(FedMessageReader):
    """Thousands of payloads need no line each for having opened Pipes."""

    def _handle(self, line: bytes) -> None:
        if not _is_opening(line):
            super()._handle(line)


def _is_opening(line: bytes) -> bool:
    try:
        message = json.loads(line)
    except ValueError:
        return False
    return isinstance(message, dict) and message.get("method") == "opened"
