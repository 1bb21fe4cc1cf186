"""Members of `SlurmMetric` of 1.22, and the figures of GPUs by its names."""

import pytest

from dagster_slurm import SlurmMetric
from dagster_slurm.slurm.efficiency import gpu_accounting
from dagster_slurm.slurm.output import AccountingRecord, AccountingStep
from dagster_slurm.slurm.states import JobState

MEMBERS = """
    STATE EXIT_CODE ELAPSED_SECONDS NODE_HOURS CPU_EFFICIENCY MAX_MEMORY REQUESTED_GPUS ALLOCATED_GPUS
    ACCOUNTING_AVAILABLE GPU_ACCOUNTING_AVAILABLE GPU_UTILIZATION_AVG GPU_UTILIZATION_MAX GPU_MEMORY_MAX
    GPU_UTILIZATION_MAX_NODE TRES_ACCOUNTING
"""


@pytest.mark.parametrize("name", MEMBERS.split())
def test_it_has_the_members(name: str) -> None:
    assert name in SlurmMetric.__members__


def test_one_figure_has_one_key() -> None:
    assert SlurmMetric.CPU_EFFICIENCY is SlurmMetric.CPU_EFFICIENCY_PCT
    assert SlurmMetric.MAX_MEMORY is SlurmMetric.MAX_MEMORY_MB


def record(usage: dict[str, str], *, nodes: int = 1) -> AccountingRecord:
    step = AccountingStep("batch", JobState.COMPLETED, 0, 0, 1, nodes, None, usage, usage, usage)
    known = {"job_id": "5", "raw_job_id": "5", "state": JobState.COMPLETED, "steps": (step,), "node_list": "n1"}
    known |= {"node_count": nodes, "alloc_tres": {"gres/gpu": "2", "cpu": "4"}}
    return AccountingRecord(**{name: known.get(name) for name in AccountingRecord.__dataclass_fields__})  # type: ignore[arg-type]


def test_what_slurm_accounts_for() -> None:
    assert gpu_accounting(record({"gres/gpuutil": "90", "gres/gpumem": "2048M"})) == {
        "slurm_gpu_accounting_available": True,
        "slurm_gpu_utilization_avg_pct": 90,
        "slurm_gpu_utilization_max_pct": 90,
        "slurm_gpu_utilization_max_node": "n1",
        "slurm_gpu_memory_max_mb": 2048.0,
        "slurm_tres_accounting": {"gres/gpu": "2", "cpu": "4"},
    }
    several = gpu_accounting(record({"gres/gpuutil": "90"}, nodes=2))
    assert "slurm_gpu_utilization_max_node" not in several


def test_what_it_does_not() -> None:
    assert gpu_accounting(record({"cpu": "1"})) == {
        "slurm_gpu_accounting_available": False,
        "slurm_tres_accounting": {"gres/gpu": "2", "cpu": "4"},
    }
