"""All partitions of a run on this machine: contexts, records, failures and retries."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource
from dagster_slurm.errors import InvalidRequestError

from ..stand_ins.macos import with_bsd_cp
from .conftest import FIRST, LAST, Make

pytestmark = pytest.mark.process

REPORTING = """
import json, os
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    window = pipes.partition_time_window if pipes._data["partition_time_window"] else None
    pipes.report_asset_materialization(
        metadata={
            "key": pipes.partition_key,
            "first": pipes.partition_key_range["start"],
            "last": pipes.partition_key_range["end"],
            "window": [window["start"], window["end"]] if window else [],
            "factor": pipes.get_extra("factor"),
        },
        data_version="of " + pipes.partition_key,
    )
    pipes.report_custom_message({"said by": pipes.partition_key})
"""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """One in memory is enough: no other process looks into it."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def execute(
    instance: dg.DagsterInstance, asset: dg.AssetsDefinition, first: str, last: str
) -> dg.ExecuteInProcessResult:
    definitions = dg.Definitions(assets=[asset], resources={"compute": ComputeResource(mode="local")})
    job = definitions.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(  # type: ignore[no-any-return]
        instance=instance, tags={FIRST: first, LAST: last}, raise_on_error=False
    )


def records(done: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> list[dg.AssetMaterialization]:
    entries = instance.all_logs(done.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    return [entry.asset_materialization for entry in entries if entry.asset_materialization]


def plain(made: dg.AssetMaterialization) -> dict[str, Any]:
    return {name: value.value for name, value in made.metadata.items()}


def reporting(tmp_path: Path, definition: dg.PartitionsDefinition, seen: list[Any]) -> dg.AssetsDefinition:
    payload = tmp_path / "payload.py"
    payload.write_text(REPORTING)

    @dg.asset(partitions_def=definition, backfill_policy=dg.BackfillPolicy.single_run(), code_version="7")
    def told(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        done = compute.run_partitions(context, payload, extras={"factor": 3})
        seen.append(done)
        return done.get_materialize_result()

    return told


def test_each_partition_has_its_context_and_its_record(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    seen: list[Any] = []
    definition = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-01-10")
    done = execute(instance, reporting(tmp_path, definition, seen), "2026-01-02", "2026-01-04")
    assert done.success
    made = {str(each.partition): each for each in records(done, instance)}
    assert list(made) == ["2026-01-02", "2026-01-03", "2026-01-04"]
    for key, each in made.items():
        told = plain(each)
        assert (told["key"], told["first"], told["last"], told["factor"]) == (key, key, key, 3)
        begin, end = map(datetime.fromisoformat, told["window"])
        assert begin.strftime("%Y-%m-%d") == key and (end - begin).days == 1
        assert each.tags is not None
        assert each.tags["dagster/data_version"] == f"of {key}"
        assert each.tags["dagster/data_version_is_user_provided"] == "true"
        assert each.tags["dagster/code_version"] == "7"
    (result,) = seen
    assert [each.custom_messages for each in result.partitions.values()] == [[{"said by": key}] for key in made]
    statuses = instance.get_status_by_partition(dg.AssetKey("told"), definition.get_partition_keys(), definition)
    assert statuses is not None
    assert {key for key, status in statuses.items() if status and status.value == "MATERIALIZED"} == set(made)


def test_partitions_of_two_dimensions(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    definition = dg.MultiPartitionsDefinition(
        {"color": dg.StaticPartitionsDefinition(["red", "blue"]), "shape": dg.StaticPartitionsDefinition(["square"])}
    )
    done = execute(instance, reporting(tmp_path, definition, []), "red|square", "blue|square")
    assert done.success
    made = records(done, instance)
    assert sorted(str(each.partition) for each in made) == ["blue|square", "red|square"]
    tags = [each.tags or {} for each in made]
    assert {each["dagster/partition/color"] for each in tags} == {"red", "blue"}


def test_a_single_partition(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    definition = dg.StaticPartitionsDefinition(["a", "b"])
    definitions = dg.Definitions(
        assets=[reporting(tmp_path, definition, [])], resources={"compute": ComputeResource(mode="local")}
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=instance, partition_key="b")
    assert [each.partition for each in records(done, instance)] == ["b"]


def test_several_assets_of_one_step(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    payload = tmp_path / "payload.py"
    payload.write_text(
        "from dagster_pipes import open_dagster_pipes\n"
        "with open_dagster_pipes() as pipes:\n"
        "    pipes.report_asset_materialization(asset_key='one', metadata={'of': 'one'})\n"
    )
    partitions = dg.StaticPartitionsDefinition(["a", "b"])

    @dg.multi_asset(
        specs=[dg.AssetSpec("one"), dg.AssetSpec("two")],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def both(context: dg.AssetExecutionContext, compute: ComputeResource):  # type: ignore[no-untyped-def]
        done = compute.run_partitions(context, payload)
        with pytest.raises(InvalidRequestError, match="2 assets"):
            done.get_materialize_result()
        yield from done.get_results()

    done = execute(instance, both, "a", "b")
    assert done.success
    made = sorted((each.asset_key.to_user_string(), str(each.partition)) for each in records(done, instance))
    assert made == [("one", "a"), ("one", "b"), ("two", "a"), ("two", "b")]


def test_a_failure_fails_its_partition_alone_and_a_retry_runs_only_that(make: Make) -> None:
    world = make("[ -e MARKS/good ] || case $DAGSTER_SLURM_PARTITION_KEY in *[25]) exit 3;; esac\n", count=7)
    failed = world.run()
    assert not failed.success
    (step,) = [event for event in failed.all_node_events if event.is_step_failure]
    told = step.step_failure_data.user_failure_data
    assert told is not None and told.description is not None
    first, second, *_ = told.description.splitlines()
    assert first.startswith("2 of 7 partitions failed. p002: Exit code 3, on ")
    assert second.startswith("Failed: p002, p005. The others")
    assert told.metadata["slurm_failed_partitions"].value == ["p002", "p005"]
    assert sorted(world.materialized()) == world.names(0, 1, 3, 4, 6)
    (world.marks / "good").touch()
    assert world.retry(failed.run_id)
    assert set(world.materialized().values()) == {1}
    assert sorted(world.materialized()) == world.all_names()
    assert world.executed() == {name: 2 if name in ("p002", "p005") else 1 for name in world.all_names()}
    assert sorted(world.materialized("after")) == world.all_names()


def test_an_asset_that_forgets_to_return_the_result_is_told(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    payload = tmp_path / "payload.sh"
    payload.write_text("true\n")

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a"]), backfill_policy=dg.BackfillPolicy.single_run())
    def forgetful(context: dg.AssetExecutionContext, compute: ComputeResource) -> None:
        compute.run_partitions(context, payload)

    done = execute(instance, forgetful, "a", "a")
    (failure,) = [event for event in done.all_node_events if event.is_step_failure]
    assert "run_partitions" in json.dumps(failure.step_failure_data.error.to_string())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["one", "$DAGSTER_SLURM_PARTITION_KEY"])
def test_outputs_that_replace_those_of_another_are_named(
    instance: dg.DagsterInstance, tmp_path: Path, name: str
) -> None:
    payload, data = tmp_path / "payload.sh", tmp_path / "data"
    payload.write_text(f'echo "$DAGSTER_SLURM_PARTITION_KEY" >"{name}.txt"\n')
    days = dg.StaticPartitionsDefinition(["a", "b"])

    @dg.asset(partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run())
    def fetched(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        return compute.run_partitions(context, payload, outputs={"*.txt": data}).get_materialize_result()

    done = execute(instance, fetched, "a", "b")
    assert done.success
    told = [each.user_message for each in instance.all_logs(done.run_id) if "replaced files" in each.user_message]
    if name == "one":
        (text,) = told
        assert f"1 of its outputs replaced files of other partitions, such as {data}/one.txt of 'a'" in text
    else:
        assert told == []


def test_a_run_without_partitions_is_refused(tmp_path: Path) -> None:
    @dg.asset
    def plain_asset(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        return compute.run_partitions(context, tmp_path / "payload.sh").get_materialize_result()

    payload = tmp_path / "payload.sh"
    payload.write_text("true\n")
    definitions = dg.Definitions(assets=[plain_asset], resources={"compute": ComputeResource(mode="local")})
    done = definitions.resolve_implicit_global_asset_job_def().execute_in_process(raise_on_error=False)
    (failure,) = [event for event in done.all_node_events if event.is_step_failure]
    assert "run_partitions is for a partitioned asset" in failure.step_failure_data.error.to_string()  # type: ignore[union-attr]


def test_with_the_programs_of_macos(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cp -s`, which the tasks of an array share files by, is GNU's; here each has its own."""
    with_bsd_cp(tmp_path / "bin", monkeypatch)
    payload, extra = tmp_path / "payload.sh", tmp_path / "with spaces"
    payload.write_text('cat "with spaces/x"; echo $DAGSTER_SLURM_PARTITION_KEY\n')
    extra.mkdir()
    (extra / "x").write_text("of all\n")

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(list("abc")), backfill_policy=dg.BackfillPolicy.single_run())
    def linked(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        return compute.run_partitions(context, payload, extra_files=[extra]).get_materialize_result()

    done = execute(instance, linked, "a", "c")
    assert done.success
    assert [each.partition for each in records(done, instance)] == ["a", "b", "c"]
