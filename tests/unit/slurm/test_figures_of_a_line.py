"""What a good end line tells in place of sacct."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.slurm.efficiency import Figures, Needs, NodeUsage, job_metrics, record_of_line

MIB = 1 << 20
FIGURES = Figures(
    submitted_at=1000.0,
    started_at=1030.25,
    nodes=1,
    cpus=4,
    gpus=0,
    mem_mib=200,
    memory_bytes=50 * MIB,
    cpu_seconds=20.0,
    killed=0,
)


def test_all_figures() -> None:
    record = record_of_line("5", FIGURES, ended_at=1040.25)
    assert record.end_time == datetime.fromtimestamp(1040.25, timezone.utc)
    assert job_metrics(record) == {
        "slurm_job_id": "5",
        "slurm_state": "COMPLETED",
        "slurm_exit_code": 0,
        "elapsed_seconds": 10.0,
        "queue_wait_seconds": 30.25,
        "node_hours": round(10 / 3600, 6),
        "cpu_efficiency_pct": 50.0,
        "max_memory_mb": 50.0,
        "memory_efficiency_pct": 25.0,
        "slurm_allocated_gpus": 0,
    }


def test_what_the_line_does_not_tell_is_left_out() -> None:
    assert job_metrics(record_of_line("5", Figures(), ended_at=1040.25)) == {
        "slurm_job_id": "5",
        "slurm_state": "COMPLETED",
        "slurm_exit_code": 0,
    }


def test_of_several_nodes_each_tells_its_own() -> None:
    """What the batch script sees of its own node is not the job's."""
    usages = [NodeUsage("n1", 100 * MIB, 10.0), NodeUsage("n2", 50 * MIB, 20.0)]
    record = record_of_line("5", replace(FIGURES, nodes=2, cpus=8), ended_at=1040.25)
    found, without = job_metrics(record, usages), job_metrics(record)
    assert (found["memory_efficiency_pct"], found["cpu_efficiency_pct"]) == (50.0, 37.5)
    assert found["node_hours"] == round(20 / 3600, 6)
    assert not {"max_memory_mb"} & found.keys()
    assert not {"max_memory_mb", "memory_efficiency_pct", "cpu_efficiency_pct"} & without.keys()


@pytest.mark.parametrize(
    ("figures", "told", "is_needed"),
    [
        ((), FIGURES, False),
        (("max_memory_mb", "cpu_efficiency_pct", "slurm_requested_gpus"), FIGURES, False),
        (("max_memory_mb",), replace(FIGURES, memory_bytes=None), True),
        (("max_memory_mb",), replace(FIGURES, nodes=2), True),
        (("max_gpu_memory_mb",), FIGURES, True),
        (("slurm_accounting_available",), FIGURES, True),
        ((), replace(FIGURES, gpus=2), True),
    ],
)
def test_what_only_sacct_tells(figures: tuple[str, ...], told: Figures, is_needed: bool) -> None:
    assert Needs(figures=frozenset(figures)).after(told) is is_needed
    assert Needs(everything=True).after(told)


times = st.none() | st.floats(0, 1e12)
counts = st.none() | st.integers(0, 10**18 - 1)
any_figures = st.builds(
    Figures, times, times, st.just(""), counts, counts, counts, counts, counts, st.none() | st.floats(0, 1e12), counts
)


@given(any_figures, st.floats(0, 1e12))
def test_no_figures_raise(figures: Figures, at: float) -> None:
    metrics = job_metrics(record_of_line("5", figures, ended_at=at))
    assert metrics["slurm_state"] == "COMPLETED"
