"""Calls that share one allocation of Slurm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmSessionResource
from tests.assets.conftest import asset_of, echo_back, log_messages, metadata_of, run_asset

pytestmark = pytest.mark.cluster

Payload = Callable[..., Path]


@pytest.fixture
def session(slurm: Callable[..., ComputeResource]) -> Callable[..., ComputeResource]:
    """Makes compute resources with a session on the sandbox."""

    def make(**fields: Any) -> ComputeResource:
        shape = {"num_nodes": 1, "cpus_per_task": 4, "mem": "1G", "time_limit": "00:10:00", "idle_timeout_seconds": 60}
        return slurm(mode="slurm-session", session=SlurmSessionResource(**{**shape, **fields}))

    return make


class TestOneStep:
    def test_reports_as_a_job_does(
        self, session: Callable[..., ComputeResource], payload: Payload, instance: dg.DagsterInstance
    ) -> None:
        path = payload(echo_back(cpus="os.environ['SLURM_CPUS_ON_NODE']", nodes="os.environ['SLURM_JOB_NUM_NODES']"))
        result = run_asset(asset_of(path), session(), instance)
        print("\n".join(log_messages(result, instance)))
        assert result.success
        print(metadata_of(result))
