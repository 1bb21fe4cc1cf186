"""The metrics of a job: the names, the units, what is left out and what stays zero."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dagster_slurm.slurm.commands import SACCT_FIELDS
from dagster_slurm.slurm.efficiency import NodeUsage, gpu_count, job_metrics
from dagster_slurm.slurm.output import AccountingRecord, parse_sacct

JOB = {
    "JobID": "5",
    "State": "COMPLETED",
    "ExitCode": "0:0",
    "ElapsedRaw": "1800",
    "Submit": "2026-01-01T00:00:00",
    "Start": "2026-01-01T00:00:30",
    "NNodes": "2",
    "AllocCPUS": "8",
    "AllocTRES": "billing=8,cpu=8,gres/gpu:a100=2,gres/gpu=2,mem=8G,node=2",
    "ReqTRES": "billing=8,cpu=8,gres/gpu=2,mem=8G,node=2",
    "TotalCPU": "02:00:00",
}
STEP = {
    "JobID": "5.0",
    "State": "COMPLETED",
    "NNodes": "2",
    "NTasks": "4",
    "MaxRSS": "1G",
    "TRESUsageInAve": "cpu=00:30:00,gres/gpumem=2G,gres/gpuutil=83,mem=1G",
    "TRESUsageInMax": "cpu=00:30:00,gres/gpumem=3G,gres/gpuutil=99,mem=1G",
    "TRESUsageInTot": "cpu=02:00:00,gres/gpumem=4G,gres/gpuutil=166,mem=4G",
}


def _record(*rows: Mapping[str, str]) -> AccountingRecord:
    text = "\n".join("|".join(row.get(field, "") for field in SACCT_FIELDS) for row in rows)
    return parse_sacct(text)["5"]


def test_all_metrics() -> None:
    assert job_metrics(_record(JOB, STEP)) == {
        "slurm_job_id": "5",
        "slurm_state": "COMPLETED",
        "slurm_exit_code": 0,
        "elapsed_seconds": 1800,
        "queue_wait_seconds": 30.0,
        "node_hours": 1.0,
        "cpu_efficiency_pct": 50.0,
        "max_memory_mb": 1024.0,
        "memory_efficiency_pct": 50.0,
        "slurm_requested_gpus": 2,
        "slurm_allocated_gpus": 2,
        "gpu_utilization_pct": 83,
        "max_gpu_memory_mb": 3072.0,
    }


def test_what_is_not_known_is_left_out() -> None:
    assert job_metrics(_record({"JobID": "5", "State": "PENDING"})) == {
        "slurm_job_id": "5",
        "slurm_state": "PENDING",
    }


def test_a_reported_zero_stays_zero() -> None:
    zero = job_metrics(_record({**JOB, "TotalCPU": "00:00:00"}, {**STEP, "MaxRSS": "0", "TRESUsageInTot": "mem=0"}))
    assert (zero["cpu_efficiency_pct"], zero["max_memory_mb"], zero["memory_efficiency_pct"]) == (0, 0, 0)
    none = job_metrics(_record({**JOB, "ElapsedRaw": "0", "AllocTRES": "cpu=8", "ReqTRES": "cpu=8"}))
    assert (none["elapsed_seconds"], none["node_hours"], none["slurm_allocated_gpus"]) == (0, 0, 0)
    assert not none.keys() & {"cpu_efficiency_pct", "memory_efficiency_pct", "max_memory_mb"}


def test_memory_is_compared_per_node() -> None:
    batch = {"JobID": "5.batch", "State": "COMPLETED", "NNodes": "1", "MaxRSS": "3G", "TRESUsageInTot": "mem=3G"}
    assert job_metrics(_record(JOB, batch, STEP))["memory_efficiency_pct"] == 75.0


NODES = [NodeUsage("n1", 1024**3, 1800.0), NodeUsage("n2", 3 * 1024**3, 3600.0)]


def test_what_every_node_tells_of_itself_counts() -> None:
    found = job_metrics(_record(JOB, STEP), NODES)
    assert {name: value for name, value in found.items() if "_node_" in name} == {
        "max_node_memory_mb": 3072.0,
        "mean_node_memory_mb": 2048.0,
        "max_node_memory_name": "n2",
        "max_node_cpu_seconds": 3600.0,
        "mean_node_cpu_seconds": 2700.0,
        "max_node_cpu_name": "n2",
    }
    assert (found["memory_efficiency_pct"], found["cpu_efficiency_pct"]) == (75.0, 37.5)
    assert found["max_memory_mb"] == 1024.0


@pytest.mark.parametrize("missing", [NodeUsage("n3", None, None), NodeUsage("n3", 5, None), NodeUsage("n3", None, 5.0)])
def test_where_a_node_does_not_tell_slurm_does(missing: NodeUsage) -> None:
    found, without = job_metrics(_record(JOB, STEP), [*NODES, missing]), job_metrics(_record(JOB, STEP))
    for figure, name, prefix in (
        (missing.peak_bytes, "memory_efficiency_pct", "max_node_memory"),
        (missing.cpu_seconds, "cpu_efficiency_pct", "max_node_cpu"),
    ):
        told = any(each.startswith(prefix) for each in found)
        assert (told, found[name] == without[name]) == (figure is not None, figure is None)


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [
        ({}, None),
        ({"cpu": "1"}, 0),
        ({"gres/gpu": "2", "gres/gpu:a100": "2"}, 2),
        ({"gres/gpu:a100": "1", "gres/gpu:v100": "2"}, 3),
    ],
)
def test_gpu_count(tres: Mapping[str, str], gpus: int | None) -> None:
    assert gpu_count(tres) == gpus
