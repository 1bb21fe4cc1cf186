"""What a finished job adds to the metadata of its results."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dagster_slurm.pipes.partition_results import MetadataOf, SlurmOutcome, outcome_metadata

SlurmMetricsContext = SlurmOutcome
"""What a metrics collector is given: the job's id, its end with its accounting, the request, the cluster."""

MetricsCollector = Callable[[SlurmMetricsContext], Mapping[str, Any]]


class SlurmMetric(str, enum.Enum):
    """The figures that are attached to a materialisation, by their names there. `_mb` means MiB."""

    JOB_ID = "slurm_job_id"
    STATE = "slurm_state"
    EXIT_CODE = "slurm_exit_code"
    ELAPSED_SECONDS = "elapsed_seconds"
    QUEUE_WAIT_SECONDS = "queue_wait_seconds"
    NODE_HOURS = "node_hours"
    CPU_EFFICIENCY_PCT = "cpu_efficiency_pct"
    MAX_MEMORY_MB = "max_memory_mb"
    MEMORY_EFFICIENCY_PCT = "memory_efficiency_pct"
    REQUESTED_GPUS = "slurm_requested_gpus"
    ALLOCATED_GPUS = "slurm_allocated_gpus"
    GPU_UTILIZATION_PCT = "gpu_utilization_pct"
    MAX_GPU_MEMORY_MB = "max_gpu_memory_mb"
    ACCOUNTING_AVAILABLE = "slurm_accounting_available"


def metadata_of(slurm_metrics: Sequence[SlurmMetric | str] | None, collector: MetricsCollector | None) -> MetadataOf:
    """The function from a job's outcome to metadata.

    Args:
        slurm_metrics: The figures to attach; None for all that are known.
        collector: Adds metadata of its own, which wins over the figures.

    Raises:
        ValueError: A name is none of `SlurmMetric`.
    """
    wanted = None if slurm_metrics is None else {SlurmMetric(name).value for name in slurm_metrics}

    def metadata(outcome: SlurmOutcome) -> Mapping[str, Any]:
        figures = outcome_metadata(outcome)
        chosen = figures if wanted is None else {name: figures[name] for name in figures if name in wanted}
        return {**chosen, **(collector(outcome) if collector else {})}

    return metadata
