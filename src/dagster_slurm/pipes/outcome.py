"""What a job's end adds to the metadata of the step's results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dagster_slurm.job.connection import ClusterConnection
from dagster_slurm.job.events import Ended
from dagster_slurm.slurm.efficiency import job_metrics
from dagster_slurm.slurm.request import JobRequest


@dataclass(frozen=True)
class SlurmOutcome:
    """A job that has ended, as a metrics collector sees it.

    Args:
        job_id: Slurm's id.
        ended: How it ended, with its accounting.
        request: What was asked of Slurm.
        connection: The cluster it ran on.
    """

    job_id: str
    ended: Ended
    request: JobRequest
    connection: ClusterConnection


MetadataOf = Callable[[SlurmOutcome], Mapping[str, Any]]


def outcome_metadata(outcome: SlurmOutcome) -> dict[str, Any]:
    """The metadata of a materialisation; without accounting, what the other witnesses know."""
    ended = outcome.ended
    known: dict[str, Any] = {
        **_requested_gpus(outcome.request),
        "slurm_job_id": outcome.job_id,
        "slurm_state": ended.state.value,
        "slurm_accounting_available": ended.record is not None,
    }
    accounted = job_metrics(ended.record) if ended.record else {}
    # The end line is exact where Slurm is not (see `job_failure`).
    exact = {"slurm_exit_code": ended.end_mark.exit_code} if ended.end_mark else {}
    return {**known, **accounted, **exact}


def _requested_gpus(request: JobRequest) -> dict[str, int]:
    """Sacct learns what a short job asked for after it has ended; what `gpus_per_node` says is known here."""
    by_other_means = {"gpus", "gpus-per-task", "gpus-per-socket", "gres", "tres-per-task"} & set(request.options)
    return {} if by_other_means else {"slurm_requested_gpus": request.gpus_per_node * request.nodes}
