"""Where the data of a step belongs: by asset and partition, as Dagster's own IO managers have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dagster import MaterializeResult, PipesClientCompletedInvocation, PipesSession

from dagster_slurm.pipes.step import Step
from dagster_slurm.staging.collect import Collected
from dagster_slurm.staging.remote_path import RemotePath

OUTPUTS = "slurm_outputs"
KEPT = "slurm_kept"
_RESULTS = "slurm_results"
# It stands in the event log, and in pages of the UI.
_SHOWN_OUTPUTS = 500


class SlurmCompletedInvocation(PipesClientCompletedInvocation):
    """Dagster's completed invocation, which also knows the payload's outputs.

    Attributes:
        outputs: Files that were fetched to this machine.
        kept: What stays on the cluster, by its name in the working directory.
    """

    def __init__(self, session: PipesSession, collected: Collected, metadata: Mapping[str, Any] | None = None) -> None:
        super().__init__(session, metadata={**(metadata or {}), **data_metadata(collected)})
        self.outputs: Sequence[Path] = collected.outputs
        self.kept: Mapping[str, RemotePath] = collected.kept

    def get_kept_result(self, name: str | None = None) -> MaterializeResult[Any]:
        """The materialize result, with what stays on the cluster as its value, for an IO manager.

        Args:
            name: Which of `kept`; by default the only one, or the mapping of all.
        """
        result = self.get_materialize_result()
        only = next(iter(self.kept.values())) if len(self.kept) == 1 else dict(self.kept)
        value = only if name is None else self.kept[name]
        return MaterializeResult(
            asset_key=result.asset_key,
            metadata=result.metadata,
            check_results=result.check_results,
            data_version=result.data_version,
            tags=result.tags,
            value=value,
        )


def data_metadata(collected: Collected) -> dict[str, Any]:
    """What a materialisation says of its data."""
    told: dict[str, Any] = {}
    if collected.outputs:
        paths = [str(path) for path in collected.outputs]
        more = [f"... and {len(paths) - _SHOWN_OUTPUTS} more"] if len(paths) > _SHOWN_OUTPUTS else []
        told[OUTPUTS] = paths[:_SHOWN_OUTPUTS] + more
    if collected.kept:
        told[KEPT] = {name: {"host": path.host, "path": path.path} for name, path in collected.kept.items()}
    return told


def data_place(step: Step, partition: str = "") -> str:
    """The asset's key and a partition, or the step's, as directories; the step's key for what is not one asset."""
    keys, partitions = step.asset_keys, [partition] if partition else step.partition_keys
    parts = list(keys[0].path) if len(keys) == 1 else [step.key]
    if partitions is not None:
        parts.append(partitions[0] if len(partitions) == 1 else f"{partitions[0]}...{partitions[-1]}")
    return "/".join(map(_file_name, parts))


def outputs_directory(step: Step, partition: str = "") -> Path:
    """Where outputs go by default: below Dagster's storage, by asset and partition."""
    return Path(step.instance.storage_directory()) / OUTPUTS / data_place(step, partition)


def results_directory(step: Step, partition: str = "") -> Path:
    """Where what stays in mode `local` lies."""
    return Path(step.instance.storage_directory()) / _RESULTS / data_place(step, partition)


def result_name(run_id: str, call: str) -> str:
    """What tells the result of one call from those of others for the same asset and partition."""
    return _file_name(f"{run_id}.{call}")


def _file_name(part: str) -> str:
    name = quote(part, safe=" +,=@()")
    return name.replace(".", "%2E") if name in {".", ".."} else name
