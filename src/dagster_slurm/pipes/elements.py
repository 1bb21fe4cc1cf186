"""One partition of a step that runs many at once: its Pipes context, its messages, its log lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetKey,
    MaterializeResult,
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

from dagster_slurm.pipes.messages import FedMessageReader
from dagster_slurm.pipes.step_logs import LabelledLogs

PARTITION_VARIABLE = "DAGSTER_SLURM_PARTITION_KEY"


@dataclass(frozen=True)
class ElementContexts:
    """The Pipes contexts of a step's partitions.

    Args:
        of_step: The context of the step as a whole.
        windows: What tells the time window of a partition, if they have one.
    """

    of_step: dict[str, Any]
    windows: TimeWindowPartitionsDefinition | None

    def of(self, partition: str) -> dict[str, Any]:
        """The context of one partition, as a run of that partition alone has it."""
        window = self.windows.time_window_for_partition_key(partition) if self.windows else None
        return {
            **self.of_step,
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


class ElementReader(FedMessageReader):
    """Thousands of payloads need no line each for having opened Pipes."""

    def _handle(self, line: bytes) -> None:
        if not _is_opening(line):
            super()._handle(line)


@dataclass(frozen=True)
class ElementSession:
    """What one partition's payload says.

    Args:
        pipes: The session.
        reader: Takes its messages.
        logs: Take its output.
    """

    pipes: PipesSession
    reader: ElementReader
    logs: LabelledLogs

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
        results = self.pipes.get_results(metadata=metadata)
        return {each.asset_key: each for each in results if isinstance(each, MaterializeResult) and each.asset_key}

    def checks(self) -> list[AssetCheckResult]:
        """Asset checks that it has reported."""
        return [each for each in self.pipes.get_reported_results() if isinstance(each, AssetCheckResult)]

    def custom_messages(self) -> list[Any]:
        """Its custom messages."""
        return list(self.pipes.get_custom_messages())


def _is_opening(line: bytes) -> bool:
    try:
        message = json.loads(line)
    except ValueError:
        return False
    return isinstance(message, dict) and message.get("method") == "opened"
