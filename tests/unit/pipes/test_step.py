"""Dagster's facts of a step, as one value."""

from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from dagster_slurm.pipes.step import Step

SEEN: list[Step] = []
DAYS = dg.StaticPartitionsDefinition(["mon", "tue", "wed"])
RANGE = {"dagster/asset_partition_range_start": "mon", "dagster/asset_partition_range_end": "tue"}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Dagster's contexts of functions that are called directly cannot be disposed of when the interpreter ends."""
    yield
    SEEN.clear()


def both(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    SEEN.extend([Step.of(context), Step.of(context)])
    yield from map(dg.MaterializeResult, sorted(context.selected_asset_keys))


def materialize(instance: dg.DagsterInstance, days: dg.PartitionsDefinition | None, **options: object) -> Step:
    specs = [dg.AssetSpec("b", metadata={"slurm": {"cpus": 2}}), dg.AssetSpec(["a", "x"])]
    policy = dg.BackfillPolicy.single_run() if days else None
    asset = dg.multi_asset(specs=specs, can_subset=True, partitions_def=days, backfill_policy=policy)(both)
    SEEN.clear()
    assert dg.materialize([asset], instance=instance, **options).success  # type: ignore[arg-type]
    return SEEN[0]


def test_of_assets(instance: dg.DagsterInstance) -> None:
    step = materialize(instance, None)
    assert (step.key, step.is_asset, step.retry_number) == ("both", True, 0)
    assert step.run is not None
    assert instance.get_run_by_id(step.run.run_id)
    assert step.asset_keys == (dg.AssetKey(["a", "x"]), dg.AssetKey("b"))
    assert {key: dict(said) for key, said in step.asset_metadata.items()}[dg.AssetKey("b")]["slurm"] == {"cpus": 2}
    assert step.partition_keys is None


def test_of_the_selected_assets_alone(instance: dg.DagsterInstance) -> None:
    step = materialize(instance, None, selection="b")
    assert step.asset_keys == tuple(step.asset_metadata) == (dg.AssetKey("b"),)


@pytest.mark.parametrize(
    ("options", "expected"), [({"partition_key": "tue"}, ("tue",)), ({"tags": RANGE}, ("mon", "tue"))]
)
def test_of_partitions(instance: dg.DagsterInstance, options: dict[str, object], expected: tuple[str, ...]) -> None:
    assert materialize(instance, DAYS, **options).partition_keys == expected


def test_calls_are_numbered_by_step(instance: dg.DagsterInstance) -> None:
    materialize(instance, None)
    first, again = SEEN
    assert [next(first.calls), next(again.calls), next(first.calls)] == [0, 1, 2]
    assert next(materialize(instance, None).calls) == 0


def test_of_functions_that_are_called_directly() -> None:
    @dg.op
    def work(context: dg.OpExecutionContext) -> None:
        SEEN.append(Step.of(context))

    work(dg.build_op_context())
    work(dg.build_op_context(partition_key="mon"))
    assert [(each.key, each.run, each.is_asset, each.asset_keys) for each in SEEN] == [("work", None, False, ())] * 2
    assert [each.partition_keys for each in SEEN] == [None, ("mon",)]


@pytest.mark.parametrize("make", [dg.build_asset_context, dg.build_op_context])
def test_what_belongs_to_no_step(make: Callable[[], dg.AssetExecutionContext]) -> None:
    assert Step.of_any(make()) is Step.of_any(None) is None
    with pytest.raises(dg.DagsterError):
        Step.of(make())
    with pytest.raises(TypeError, match="not int"):
        Step.of(5)  # type: ignore[arg-type]
