"""What is attached to a materialisation, and whether sacct has to be asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dagster_slurm.cluster.description import EndMark
from dagster_slurm.job.events import Ended
from dagster_slurm.pipes.partition_results import MetadataOf, SlurmOutcome, needs_of, outcome_metadata
from dagster_slurm.resources.settings import metadata_of
from dagster_slurm.slurm.efficiency import Figures, Needs, record_of_line
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.slurm.states import JobState

FIGURES = Figures(submitted_at=1.0, started_at=2.0, nodes=1, cpus=1, mem_mib=100, killed=0, memory_bytes=1 << 20)
END = EndMark("5", 0, 0, 12.0, {"stdout": 0, "stderr": 0, "messages": 0}, figures=FIGURES)
GOOD = Ended(JobState.COMPLETED, None, END, "n1")
KNOWN = {"slurm_requested_gpus": 0, "slurm_job_id": "5", "slurm_state": "COMPLETED", "slurm_exit_code": 0}


def metadata(ended: Ended) -> Mapping[str, Any]:
    return outcome_metadata(SlurmOutcome("5", ended, JobRequest(), cast(Any, SimpleNamespace())))


def test_without_a_question_the_end_line_tells() -> None:
    assert metadata(GOOD) == {
        **KNOWN,
        "elapsed_seconds": 10.0,
        "queue_wait_seconds": 1.0,
        "node_hours": round(10 / 3600, 6),
        "max_memory_mb": 1.0,
        "memory_efficiency_pct": 1.0,
        "slurm_allocated_gpus": 0,
    }


@pytest.mark.parametrize("is_known", [True, False])
def test_where_sacct_was_asked_its_answer_counts(is_known: bool) -> None:
    record = replace(record_of_line("5", FIGURES, ended_at=12.0), elapsed_seconds=11) if is_known else None
    found = metadata(replace(GOOD, record=record, was_accounting_asked=True))
    assert (found["slurm_accounting_available"], found["elapsed_seconds"]) == (is_known, 11 if is_known else 10.0)


def test_of_a_bad_end_the_line_tells_its_exit_code_alone() -> None:
    ended = Ended(JobState.FAILED, None, replace(END, exit_code=3), "n1", was_accounting_asked=True)
    assert metadata(ended) == {
        **KNOWN,
        "slurm_state": "FAILED",
        "slurm_exit_code": 3,
        "slurm_accounting_available": False,
    }


def of_a_user(outcome: SlurmOutcome) -> Mapping[str, Any]:
    return {"nodes": outcome.ended.record and outcome.ended.record.node_count}


@pytest.mark.parametrize(
    ("chosen", "request_", "needs"),
    [
        (outcome_metadata, JobRequest(), Needs()),
        (outcome_metadata, JobRequest(gpus_per_node=1), Needs(everything=True)),
        (of_a_user, JobRequest(), Needs(everything=True)),
        (metadata_of(None, None), JobRequest(), Needs()),
        (metadata_of(None, of_a_user), JobRequest(), Needs(everything=True)),
        (metadata_of(["node_hours"], None), JobRequest(), Needs(figures=frozenset({"node_hours"}))),
        # Slurm does not tell these either.
        (metadata_of(["max_node_memory_mb", "mean_node_cpu_seconds"], None), JobRequest(), Needs()),
    ],
)
def test_what_is_wanted_of_sacct(chosen: MetadataOf, request_: JobRequest, needs: Needs) -> None:
    assert needs_of(chosen, request_) == needs
