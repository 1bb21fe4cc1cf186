"""What payloads find of partitions, in every way in which Dagster runs them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource

PAYLOAD = """
import os
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    names = ("partition_key", "partition_key_range", "partition_time_window")
    told = {name: pipes._data[name] for name in names}
    told["variable"] = os.environ.get("DAGSTER_SLURM_PARTITION_KEY")
    pipes.report_asset_materialization(metadata={"told": {"raw_value": told, "type": "json"}})
"""
DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-05")
BOTH = dg.MultiPartitionsDefinition({"day": DAYS, "region": dg.StaticPartitionsDefinition(["a", "b"])})
RANGE = {"dagster/asset_partition_range_start": "2024-01-01", "dagster/asset_partition_range_end": "2024-01-02"}
RANGE_OF_BOTH = {name: f"{value}|a" for name, value in RANGE.items()}
FIRST = {"start": "2024-01-01T00:00:00+00:00", "end": "2024-01-02T00:00:00+00:00"}
SECOND = {"start": "2024-01-02T00:00:00+00:00", "end": "2024-01-03T00:00:00+00:00"}
ALL = {"start": FIRST["start"], "end": SECOND["end"]}


def key(text: str, window: Mapping[str, str] | None) -> dict[str, Any]:
    return {
        "partition_key": text,
        "partition_key_range": {"start": text, "end": text},
        "partition_time_window": window,
        "variable": text,
    }


def whole(start: str, end: str) -> dict[str, Any]:
    return {
        "partition_key": None,
        "partition_key_range": {"start": start, "end": end},
        "partition_time_window": ALL,
        "variable": None,
    }


TOLD = {
    "one": ("run", DAYS, {"dagster/partition": "2024-01-01"}, [key("2024-01-01", FIRST)]),
    "a range in one payload": ("run", DAYS, RANGE, [whole("2024-01-01", "2024-01-02")] * 2),
    "a range, one by one": ("run_partitions", DAYS, RANGE, [key("2024-01-01", FIRST), key("2024-01-02", SECOND)]),
    "two dimensions, one by one": (
        "run_partitions",
        BOTH,
        RANGE_OF_BOTH,
        [key("2024-01-01|a", FIRST), key("2024-01-02|a", SECOND)],
    ),
    # As "from asset failure" executes what comes after a partitioned asset.
    "not partitioned, in a run that is": ("run", None, {"dagster/partition": "2024-01-01"}, [key("2024-01-01", None)]),
}


@pytest.mark.parametrize("how", TOLD)
def test_partitions(how: str, compute: ComputeResource, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    call, definition, tags, expected = TOLD[how]
    path = tmp_path / "payload.py"
    path.write_text(PAYLOAD)

    @dg.asset(partitions_def=definition, backfill_policy=dg.BackfillPolicy.single_run() if definition else None)
    def told(context: dg.AssetExecutionContext, compute: ComputeResource):
        return getattr(compute, call)(context, path).get_materialize_result()

    result = dg.materialize([told], resources={"compute": compute}, instance=instance, tags=tags)
    assert result.success
    events = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    made = {str(each.asset_materialization.partition): each.asset_materialization for each in events}
    assert [made[name].metadata["told"].value for name in sorted(made)] == expected


def test_a_step_of_a_graph_asset_returns_a_value(
    compute: ComputeResource, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    path = tmp_path / "payload.sh"
    path.write_text("echo 3 >out.txt\n")

    @dg.op
    def counted(context: dg.OpExecutionContext, compute: ComputeResource) -> int:
        run = compute.run(context, path, outputs=["out.txt"])
        return int(run.outputs[0].read_text())

    @dg.op
    def doubled(number: int) -> int:
        return 2 * number

    @dg.graph_asset
    def twice() -> int:
        return doubled(counted())

    result = dg.materialize([twice], resources={"compute": compute}, instance=instance)
    assert result.success
    assert result.output_for_node("twice") == 6
