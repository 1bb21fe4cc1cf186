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
KNOWN = {"slurm_job_id": 5, "slurm_state": "COMPLETED", "slurm_exit_code": 0}


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
    }


def test_the_order_is_the_same_whoever_has_told() -> None:
    record = record_of_line("5", FIGURES, ended_at=12.0)
    by_both = metadata(replace(GOOD, record=record, was_accounting_asked=True))
    assert list(by_both) == [*metadata(GOOD), "slurm_accounting_available"]
    assert list(by_both)[:4] == ["slurm_job_id", "slurm_state", "slurm_exit_code", "elapsed_seconds"]


@pytest.mark.parametrize(("asked", "allocated"), [(0, 0), (0, 2), (1, 0)])
def test_gpus_are_named_where_they_were_asked_for_or_allocated(asked: int, allocated: int) -> None:
    tres = {"gres/gpu": str(allocated)} if allocated else {}
    record = replace(record_of_line("5", FIGURES, ended_at=12.0), alloc_tres=tres)
    ended = replace(GOOD, record=record, was_accounting_asked=True)
    found = outcome_metadata(SlurmOutcome("5", ended, JobRequest(gpus_per_node=asked), cast(Any, SimpleNamespace())))
    got = {name: value for name, value in found.items() if "gpus" in name}
    both = {"slurm_requested_gpus": asked, "slurm_allocated_gpus": allocated}
    assert got == (both if asked else {name: value for name, value in both.items() if value})


@pytest.mark.parametrize("is_known", [True, False])
def test_where_sacct_was_asked_its_answer_counts(is_known: bool) -> None:
    record = replace(record_of_line("5", FIGURES, ended_at=12.0), elapsed_seconds=11) if is_known else None
    found = metadata(replace(GOOD, record=record, was_accounting_asked=True))
    assert (found["slurm_accounting_available"], found["elapsed_seconds"]) == (is_known, 11 if is_known else 10.0)


def test_a_bad_end_has_the_same_figures() -> None:
    ended = Ended(JobState.FAILED, None, replace(END, exit_code=3), "n1", was_accounting_asked=True)
    bad = {"slurm_state": "FAILED", "slurm_exit_code": 3, "slurm_accounting_available": False}
    assert metadata(ended) == {**metadata(GOOD), **bad}


def test_of_memory_the_line_knows_more() -> None:
    """Of a short job sacct has no sample, or a small one, and without trackable resources not what it was given."""
    record = replace(record_of_line("5", FIGURES, ended_at=12.0), max_rss_bytes=0, steps=(), alloc_tres={})
    found = metadata(replace(GOOD, record=record, was_accounting_asked=True))
    assert (found["max_memory_mb"], found["memory_efficiency_pct"]) == (1.0, 1.0)


@pytest.mark.parametrize(("elapsed_seconds", "is_told"), [(None, False), (12, False), (30, False), (31, True)])
def test_where_the_line_has_no_memory_slurm_tells_that_of_a_job_it_has_sampled(
    elapsed_seconds: int | None, is_told: bool
) -> None:
    record = replace(record_of_line("5", FIGURES, ended_at=12.0), elapsed_seconds=elapsed_seconds)
    found = metadata(replace(GOOD, end_mark=replace(END, figures=Figures()), record=record))
    names = ("max_memory_mb", "memory_efficiency_pct")
    assert {name: found[name] for name in names if name in found} == (dict.fromkeys(names, 1.0) if is_told else {})


def test_without_a_line_slurm_alone_tells() -> None:
    assert metadata(Ended(JobState.NODE_FAIL, None, None, None)) == {
        "slurm_job_id": 5,
        "slurm_state": "NODE_FAIL",
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
