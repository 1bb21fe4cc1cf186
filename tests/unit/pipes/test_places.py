"""What stands for a piece of work, and where its data lies: never the same for two of them."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from dagster_slurm.pipes.launch_key import piece_of_work
from dagster_slurm.pipes.partition_results import data_place
from dagster_slurm.pipes.step import Step

SEEN: list[tuple[str, str, str]] = []


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Dagster's contexts cannot be disposed of when the interpreter ends."""
    yield
    SEEN.clear()


def note(context: Any, name: str | None = None) -> None:
    step = Step.of(context)
    work = piece_of_work(step, name, "asset")
    SEEN.append((work.key.digest, work.asset_digest, data_place(step, name=name)))


def places() -> list[str]:
    """Those that were noted, no two of them the same."""
    for column in zip(*SEEN, strict=True):
        assert len(set(column)) == len(column), column
    return [place for _, _, place in SEEN]


@dg.op(out=dg.DynamicOut(int))
def parts(context: dg.OpExecutionContext) -> Iterator[dg.DynamicOutput[int]]:
    note(context)
    for number in range(3):
        yield dg.DynamicOutput(number, str(number))


@dg.op
def part(context: dg.OpExecutionContext, number: int) -> int:
    note(context)
    return number


@dg.op
def whole(context: dg.OpExecutionContext, numbers: list[int]) -> int:
    note(context)
    return sum(numbers)


def test_steps_of_a_graph_asset(instance: dg.DagsterInstance) -> None:
    """Three mapped steps adopted one job, and all but the first lost their outputs (dagster#17340, dagster#7713)."""

    @dg.graph_asset
    def tides() -> int:
        return whole(parts().map(part).collect())

    assert dg.materialize([tides], instance=instance).success
    assert sorted(places()) == [
        "tides/step=tides.part%5B0%5D",
        "tides/step=tides.part%5B1%5D",
        "tides/step=tides.part%5B2%5D",
        "tides/step=tides.parts",
        "tides/step=tides.whole",
    ]


def test_keys_of_one_part_and_of_two(instance: dg.DagsterInstance) -> None:
    for key in (["a/b"], ["a", "b"]):

        @dg.multi_asset(outs={"one": dg.AssetOut(key=dg.AssetKey(key))})
        def both(context: dg.AssetExecutionContext) -> int:
            note(context)
            return 1

        assert dg.materialize([both], instance=instance).success
    assert places() == ["a%2Fb", "a/b"]


def test_named_calls(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def tide(context: dg.AssetExecutionContext) -> None:
        note(context)
        for name in ("low", "high/2"):
            note(context, name)

    assert dg.materialize([tide], instance=instance).success
    assert places() == ["tide", "tide/call=low", "tide/call=high%2F2"]


def test_a_partition_key_longer_than_a_file_name(instance: dg.DagsterInstance) -> None:
    keys = ["k" * 300, "k" * 299 + "l"]

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(keys))
    def tide(context: dg.AssetExecutionContext) -> None:
        note(context)

    for key in keys:
        assert dg.materialize([tide], instance=instance, partition_key=key).success
    assert all(len(part) <= 255 for place in places() for part in place.split("/"))
