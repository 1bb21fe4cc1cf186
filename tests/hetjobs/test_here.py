"""Components on this machine, and what is refused before anything is done anywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import BashLauncher, ComputeResource, SlurmPathIOManager, SlurmQueueConfig
from dagster_slurm.errors import InvalidRequestError

from ..assets.conftest import log_messages
from .conftest import FAILS_ONCE, REPORTS, run_components

pytestmark = pytest.mark.process

Write = Callable[..., Path]
HERE = ComputeResource(mode="local")
TWO: dict[str, dict[str, object]] = {"a": {}, "b": {"num_nodes": 2}}
# Each waits for the other: one after the other, they would never end.
MEET = {
    "a": "\n(beside / 'a').touch()\nuntil('b')",
    "b": "\n(beside / 'b').touch()\nuntil('a')",
}


@pytest.fixture
def reports(payload: Write) -> Path:
    return payload(REPORTS)


@pytest.mark.timeout(60)
def test_components_run_side_by_side(instance: dg.DagsterInstance, payload: Write) -> None:
    meet = payload(REPORTS.replace("beside = kept.parent", "beside = pathlib.Path(os.environ['MEETING'])"))
    variables = {**{f"DOES_{name}": text for name, text in MEET.items()}, "MEETING": str(meet.parent)}

    @dg.multi_asset(specs=[dg.AssetSpec("a"), dg.AssetSpec("b")])
    def work(context: dg.AssetExecutionContext, compute: ComputeResource) -> Any:
        done = compute.run_hetjob(context, [(name, meet, {}) for name in "ab"], extra_env=variables)
        assert [key.to_user_string() for key in done.components] in (["a", "b"], ["b", "a"])
        with pytest.raises(InvalidRequestError, match="The call has several results"):
            done.get_materialize_result()
        yield from done.get_results()

    done = dg.materialize([work], resources={"compute": HERE}, instance=instance)
    events = instance.all_logs(done.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    made = [each.asset_materialization for each in events if each.asset_materialization]
    assert sorted(each.asset_key.to_user_string() for each in made) == ["a", "b"]
    assert {each.metadata["others"].value for each in made} == {"localhost localhost"}


def test_one_fails_and_a_retry_runs_it_alone(instance: dg.DagsterInstance, reports: Path, tmp_path: Path) -> None:
    """Its checkpoint directory goes with the process here; another place tells that it was tried."""
    once = FAILS_ONCE.replace("kept /", f"pathlib.Path({str(tmp_path)!r}) /")
    starts = f"\nopen({str(tmp_path / 'starts')!r}, 'a').write(asset)"
    ran = run_components(HERE, instance, reports, TWO, {"a": starts, "b": starts + once}, retries=1)
    assert ran.result.success, ran.log
    assert sorted(ran.made) == ["a", "b"]
    assert sorted((tmp_path / "starts").read_text()) == ["a", "b", "b"]


def test_one_fails_and_is_named(instance: dg.DagsterInstance, reports: Path) -> None:
    ran = run_components(HERE, instance, reports, TWO, {"b": "sys.exit(3)"})
    assert ran.failure.startswith("dagster._core.definitions.events.Failure: 1 of 2 assets failed. b: Exit code 3")
    assert list(ran.made) == ["a"]


@pytest.mark.timeout(60)
def test_one_fails_and_the_others_are_ended(instance: dg.DagsterInstance, reports: Path) -> None:
    does = {"a": "time.sleep(300)", "b": "sys.exit(3)"}
    ran = run_components(HERE, instance, reports, TWO, does, on_failure="cancel")
    assert "2 of 2 assets failed. b: Exit code 3" in ran.failure
    assert "a: Signal 15" in ran.failure
    assert ran.made == {}


def test_outputs_are_those_of_each(instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload("echo of $DAGSTER_SLURM_ASSET_KEY >out.txt\n", "writes.sh")
    found: dict[str, str] = {}

    @dg.multi_asset(specs=[dg.AssetSpec("a"), dg.AssetSpec(["x", "b"])])
    def work(context: dg.AssetExecutionContext, compute: ComputeResource) -> Any:
        done = compute.run_hetjob(context, [("a", path, {}), (["x", "b"], path, {})], outputs=["out.txt"])
        for key, component in done.components.items():
            (output,) = component.outputs
            found[key.to_user_string()] = output.read_text()
        yield from done.get_results()

    assert dg.materialize([work], resources={"compute": HERE}, instance=instance).success
    assert found == {"a": "of a\n", "x/b": "of x/b\n"}


@pytest.mark.parametrize("keys", [(), ("jan", "mar")], ids=["alone", "of partitions"])
def test_what_stays_on_the_cluster_is_the_value_of_its_asset(
    instance: dg.DagsterInstance, payload: Write, keys: tuple[str, ...]
) -> None:
    """Of one that ends well, also where another fails; of several partitions, what is named as each."""
    text = (
        'for name in wave jan feb; do echo "of $DAGSTER_SLURM_ASSET_KEY" >$name; done; [ $DAGSTER_SLURM_ASSET_KEY = a ]'
    )
    path, months = payload(text, "writes.sh"), dg.StaticPartitionsDefinition(["jan", "feb", "mar"])
    loaded: dict[str, Any] = {}

    @dg.multi_asset(
        specs=[dg.AssetSpec(name).with_io_manager_key("on_cluster") for name in "ab"],
        partitions_def=months if keys else None,
        backfill_policy=dg.BackfillPolicy.single_run() if keys else None,
    )
    def work(context: dg.AssetExecutionContext, compute: ComputeResource) -> Any:
        named = ["jan", "feb"] if keys else ["wave"]
        done = compute.run_hetjob(context, [(name, path, {}) for name in "ab"], keep_on_cluster=named)
        yield from done.get_results()

    @dg.asset(ins={"a": dg.AssetIn(metadata={"allow_missing_partitions": True})})
    def read(a: Any) -> None:
        loaded["a"] = a

    definitions = dg.Definitions(
        assets=[work, read],
        jobs=[dg.define_asset_job("first", ["a", "b"]), dg.define_asset_job("second", "read")],
        resources={"compute": HERE, "on_cluster": SlurmPathIOManager()},
    )
    tags = dict(zip(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), keys, strict=False))
    done = definitions.resolve_job_def("first").execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    assert not done.success
    assert definitions.resolve_job_def("second").execute_in_process(instance=instance).success
    found = loaded["a"] if keys else {"": loaded["a"]}
    assert {name: Path(each.path).name for name, each in found.items()} == (
        {"jan": "jan", "feb": "feb"} if keys else {"": "wave"}
    )
    assert {Path(each.path).read_text() for each in found.values()} == {"of a\n"}
    told = [text for text in log_messages(done, instance) if "no value was stored of partition mar" in text]
    assert len(told) == bool(keys)


def test_some_of_the_assets_are_components_of_their_own(instance: dg.DagsterInstance, reports: Path) -> None:
    """What was not selected is not run."""

    @dg.multi_asset(specs=[dg.AssetSpec("a", skippable=True), dg.AssetSpec("b", skippable=True)], can_subset=True)
    def work(context: dg.AssetExecutionContext, compute: ComputeResource) -> Any:
        done = compute.run_hetjob(context, [(name, reports, {}) for name in "ab"])
        yield from done.get_results()

    done = dg.materialize([work], resources={"compute": HERE}, instance=instance, selection=["b"])
    events = instance.all_logs(done.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    made = [each.asset_materialization for each in events if each.asset_materialization]
    assert [each.asset_key.to_user_string() for each in made] == ["b"]


PAYLOAD = "reports.py"


@pytest.mark.parametrize(
    ("assets", "call", "said"),
    [
        ([("a", PAYLOAD, {}), ("x", PAYLOAD, {})], {}, "'x' is no asset of the step"),
        ([("a", PAYLOAD, {}), ("a", PAYLOAD, {})], {}, "'a' stands twice in assets"),
        ([("a", PAYLOAD)], {}, "is no component"),
        ([("a", PAYLOAD, 4)], {}, "The requirements of a component are 4"),
        ([("a", PAYLOAD, {})], {"launchers": {"b": BashLauncher()}}, "launchers names 'b', which is not in assets"),
        ([("a", PAYLOAD, {})], {"on_failure": "stop"}, "on_failure is 'stop'"),
        ([("a", PAYLOAD, {"dependency": "afterok:1"})], {}, "'dependency', which holds for a heterogeneous job"),
        ([("a", PAYLOAD, SlurmQueueConfig(signal_before_timeout="60"))], {}, "'signal_before_timeout', which holds"),
        ([("a", PAYLOAD, {"output": "x"})], {}, "dagster-slurm follows the job's own files"),
        ([("a", PAYLOAD, {"num_nodse": 2})], {}, "sbatch has no option 'num_nodse'"),
        ([("a", PAYLOAD, {"mem": "lots"})], {}, "'lots'"),
        ([("a", "nowhere.py", {})], {}, "is not a file of this machine"),
    ],
    ids=str,
)
def test_what_is_refused(
    instance: dg.DagsterInstance, payload: Write, assets: list[Any], call: dict[str, Any], said: str
) -> None:
    path = payload(REPORTS, PAYLOAD)
    given = [(each[0], str(path) if each[1] == PAYLOAD else each[1], *each[2:]) for each in assets]
    ran = run_components(HERE, instance, path, TWO, assets=given, **call)
    assert said in ran.cause[1]
    assert ran.made == {}


def test_what_one_asks_for_wins_over_what_all_ask_for(reports: Path, instance: dg.DagsterInstance) -> None:
    """In every spelling; and of the kinds of memory, which exclude each other, its own counts."""
    common = {"nodes": 3, "mem_per_cpu": "1G", "signal_before_timeout": 60}
    asked: dict[str, dict[str, object]] = {"a": {"num_nodes": 2, "mem": "2G"}, "b": {}}
    ran = run_components(HERE, instance, reports, asked, extra_slurm_opts=common)
    assert ran.result.success, ran.log
