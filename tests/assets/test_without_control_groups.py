"""A site whose Slurm makes no control groups: what nobody has counted is left out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.sandbox.pytest_plugin import config_for_this_worker, skip_where_it_cannot_run
from tests.support.memory import HAS_150_MIB

from .conftest import asset_of, metadata_of, run_asset

pytestmark = [pytest.mark.cluster, pytest.mark.all_faults]

PARTITIONS = dg.StaticPartitionsDefinition(["one", "two"])


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A cluster of its own, which holds nobody to any memory."""
    skip_where_it_cannot_run()
    config = config_for_this_worker("tests-unlimited", "unlimited", nodes=1, enforce_memory=False)
    with Sandbox(config).running() as cluster:
        yield cluster


@pytest.fixture
def environment_path() -> None:
    """The cluster's own Python."""


@pytest.mark.parametrize(
    "call", [{}, {"slurm_metrics": ["slurm_job_id", "max_memory_mb"]}], ids=["by the end line", "asked of sacct"]
)
def test_without_a_memory_control_group_the_key_is_missing(
    slurm: Callable[..., ComputeResource],
    instance: dg.DagsterInstance,
    payload: Callable[..., Path],
    call: dict[str, Any],
) -> None:
    got = metadata_of(run_asset(asset_of(payload(HAS_150_MIB), **call), slurm(), instance))
    assert "slurm_job_id" in got
    assert not {"max_memory_mb", "memory_efficiency_pct"} & got.keys(), got


def test_without_a_memory_control_group_the_key_is_missing_for_each_partition(
    slurm: Callable[..., ComputeResource], instance: dg.DagsterInstance, payload: Callable[..., Path]
) -> None:
    path = payload(HAS_150_MIB)

    @dg.asset(partitions_def=PARTITIONS, backfill_policy=dg.BackfillPolicy.single_run())
    def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        return compute.run_partitions(context, path).get_materialize_result()

    tags = {"dagster/asset_partition_range_start": "one", "dagster/asset_partition_range_end": "two"}
    done = run_asset(measured, slurm(), instance, tags=tags)
    assert done.success
    entries = instance.all_logs(done.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    made = [entry.asset_materialization for entry in entries if entry.asset_materialization]
    assert sorted(str(each.partition) for each in made) == ["one", "two"]
    assert not [each.metadata for each in made if "max_memory_mb" in each.metadata]
