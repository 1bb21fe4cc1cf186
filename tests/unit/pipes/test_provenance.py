"""The provenance in a Pipes context is the one that Dagster would put there."""

import dagster as dg
from dagster import AssetExecutionContext, DagsterInstance
from tests.support.instances import empty_instance

from dagster_slurm.pipes.dagster_private import pipes_context_of
from dagster_slurm.pipes.session import _ask, with_provenance

SEEN: list[tuple[dict, dict]] = []


@dg.asset(code_version="1")
def tides():
    return 1


@dg.multi_asset(
    specs=[dg.AssetSpec("low", deps=["tides"], code_version="2"), dg.AssetSpec(["a", "high"], deps=["tides"])],
    can_subset=True,
)
def both(context: AssetExecutionContext):
    SEEN.append((pipes_context_of(with_provenance(context), {"a": 1}), pipes_context_of(context, {"a": 1})))
    for key in sorted(context.selected_asset_keys):
        yield dg.MaterializeResult(key)


def materialize(instance: DagsterInstance, *selected: str) -> None:
    assert dg.materialize([tides, both], instance=instance, selection=list(selected) or None).success


def test_as_dagster_tells_it(instance: DagsterInstance) -> None:
    SEEN.clear()
    materialize(instance)
    materialize(instance, "low")
    materialize(instance)
    instance.wipe_assets([dg.AssetKey("low")])
    materialize(instance)
    assert [mine for mine, _ in SEEN] == [theirs for _, theirs in SEEN]
    first, _, third, last = (mine["provenance_by_asset_key"] for mine, _ in SEEN)
    assert first == {"low": None, "a/high": None}
    assert third["low"]["code_version"] == "2"
    assert set(third["low"]["input_data_versions"]) == {"tides"}
    assert last["low"] is None
    assert last["a/high"] is not None


def test_a_function_that_is_called_directly_has_none() -> None:
    context = dg.build_op_context()
    assert with_provenance(context) is context


def test_steps_of_two_instances_that_ask_at_once_get_what_is_theirs(instance: DagsterInstance) -> None:
    materialize(instance, "tides")
    tides = dg.AssetKey("tides")
    with empty_instance() as other:
        asked = [(instance, {tides}), (other, {tides}), (instance, {dg.AssetKey("low")})]
        first, second, third = _ask(asked)
    assert first[tides].code_version == "1"
    assert second == {}
    assert third.get(dg.AssetKey("low")) is None
