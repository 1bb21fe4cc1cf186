"""What partitions keep on the cluster, as values: stored by asset and partition, and loaded where they are wanted."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, RemotePath, SlurmPathIOManager

from .conftest import FIRST, LAST

pytestmark = pytest.mark.process

KEYS = ["jan", "feb", "mar"]
MONTHS = dg.StaticPartitionsDefinition(KEYS)
ONE_RUN = dg.BackfillPolicy.single_run()
Values = dict[str, Any]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """One in memory is enough: no other process looks into it."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


class Project:
    """An asset whose partitions keep something, two that read it, and what they have loaded."""

    def __init__(self, payload: Path, *, retries: int = 0, keep_on_cluster: list[str]) -> None:
        self.loaded: Values = {}
        self.results: Values = {}
        self.manager: Any = SlurmPathIOManager()
        self.then: Callable[[], object] = lambda: None

        @dg.asset(
            partitions_def=MONTHS,
            backfill_policy=ONE_RUN,
            io_manager_key="on_cluster",
            retry_policy=dg.RetryPolicy(max_retries=retries),
        )
        def waves(context: dg.AssetExecutionContext, compute: ComputeResource):  # type: ignore[no-untyped-def]
            context.add_output_metadata({"grid": "fine"})
            context.add_asset_metadata({"model": 3})
            context.add_asset_metadata({"model": 4}, partition_key="feb")
            done = compute.run_partitions(context, payload, keep_on_cluster=keep_on_cluster)
            self.results.update(done.partitions)
            self.then()
            return done.get_kept_result()

        @dg.asset(partitions_def=MONTHS, backfill_policy=ONE_RUN)
        def each(waves: Any) -> None:
            self.loaded["each"] = waves

        @dg.asset(ins={"waves": dg.AssetIn(metadata={"allow_missing_partitions": True})})
        def whole(waves: Any) -> None:
            self.loaded["whole"] = waves

        self.assets = [waves, each, whole]

    def run(
        self, instance: dg.DagsterInstance, *names: str, keys: tuple[str, str] | str = ""
    ) -> dg.ExecuteInProcessResult:
        """A run of some of the assets, for a range of partitions, one, or none."""
        definitions = dg.Definitions(
            assets=self.assets,
            jobs=[dg.define_asset_job("some", list(names))],
            resources={"compute": ComputeResource(mode="local"), "on_cluster": self.manager},
        )
        return execute(definitions.resolve_job_def("some"), instance, keys)


def execute(
    job: dg.JobDefinition, instance: dg.DagsterInstance, keys: tuple[str, str] | str
) -> dg.ExecuteInProcessResult:
    tags = dict(zip((FIRST, LAST), keys, strict=True)) if isinstance(keys, tuple) else {}
    one = keys if isinstance(keys, str) and keys else None
    return job.execute_in_process(instance=instance, tags=tags, partition_key=one, raise_on_error=False)


def texts(found: Mapping[str, RemotePath]) -> dict[str, str]:
    return {key: Path(path.path).read_text().strip() for key, path in found.items()}


def materialized(instance: dg.DagsterInstance, done: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    found = [each.asset_materialization for each in instance.all_logs(done.run_id)]
    return {
        str(made.partition): {name: value.value for name, value in made.metadata.items()}
        for made in found
        if made is not None and made.asset_key == dg.AssetKey("waves")
    }


def test_a_range_then_one_then_all(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    payload, word = tmp_path / "payload.sh", tmp_path / "word"
    payload.write_text(f'echo "$DAGSTER_SLURM_PARTITION_KEY $(cat {word})" >wave\n')
    project = Project(payload, keep_on_cluster=["wave"])
    word.write_text("first")
    done = project.run(instance, "waves", "each", keys=("jan", "feb"))
    assert done.success
    assert texts(project.loaded["each"]) == {"jan": "jan first", "feb": "feb first"}
    told = materialized(instance, done)
    assert {key: told[key]["slurm_path"] for key in told} == {
        key: path.path for key, path in project.loaded["each"].items()
    }
    assert all(Path(each["path"]).is_file() for each in told.values())
    # What the asset's function says of its output in Dagster's own way is on record as well.
    assert {key: (each["model"], each["grid"]) for key, each in told.items()} == {
        "jan": (3, "fine"),
        "feb": (4, "fine"),
    }

    word.write_text("second")
    assert project.run(instance, "waves", "each", keys="feb").success
    assert texts({"feb": project.loaded["each"]}) == {"feb": "feb second"}
    assert project.run(instance, "whole").success
    assert texts(project.loaded["whole"]) == {"jan": "jan first", "feb": "feb second"}


def fails_once(tmp_path: Path) -> Path:
    """A payload that fails for February the first time, and notes each time for whom it is begun."""
    payload, begun = tmp_path / "payload.sh", tmp_path / "begun"
    payload.write_text(
        f"""echo "$DAGSTER_SLURM_PARTITION_KEY" >>{begun}
[ "$DAGSTER_SLURM_PARTITION_KEY" != feb ] || [ "$(grep -c feb {begun})" = 2 ] || exit 3
echo "of $DAGSTER_SLURM_PARTITION_KEY" >a
echo b >b
"""
    )
    return payload


def test_those_that_succeed_are_stored_before_the_step_fails(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = Project(fails_once(tmp_path), keep_on_cluster=["a", "b"])
    assert not project.run(instance, "waves", keys=("jan", "mar")).success
    assert project.run(instance, "whole").success
    assert {key: texts(each) for key, each in project.loaded["whole"].items()} == {
        key: {"a": f"of {key}", "b": "b"} for key in ("jan", "mar")
    }


def test_a_retry_stores_what_it_ran_and_leaves_the_others(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = Project(fails_once(tmp_path), retries=1, keep_on_cluster=["a"])
    newer = tmp_path / "of a run of january alone"
    newer.write_text("newer")
    records = Path(instance.storage_directory()) / "slurm_paths/waves"
    # It ends while the range is still at work.
    project.then = lambda: (records / "jan.json").write_text(json.dumps({"path": str(newer), "host": None}))
    assert project.run(instance, "waves", "each", keys=("jan", "mar")).success
    assert (tmp_path / "begun").read_text().split() == ["jan", "feb", "mar", "feb"]
    assert list(project.results) == ["feb"]
    assert project.results["feb"].metadata["path"].value == str(records / "feb.json")
    assert texts(project.loaded["each"]) == {"jan": "newer", "feb": "of feb", "mar": "of mar"}


def test_another_io_manager_gets_all_of_the_run_as_a_mapping(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = Project(fails_once(tmp_path), retries=1, keep_on_cluster=["a"])
    project.manager = dg.mem_io_manager
    assert project.run(instance, "waves", "each", keys=("jan", "mar")).success
    assert texts(project.loaded["each"]) == {key: f"of {key}" for key in KEYS}
    assert list(project.loaded["each"]) == KEYS


def test_partitions_of_two_dimensions(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    payload = tmp_path / "payload.sh"
    payload.write_text("echo $DAGSTER_SLURM_PARTITION_KEY >wave\n")
    both = dg.MultiPartitionsDefinition({"sea": dg.StaticPartitionsDefinition(["north", "south"]), "month": MONTHS})
    loaded: Values = {}

    @dg.asset(partitions_def=both, backfill_policy=ONE_RUN, io_manager_key="on_cluster")
    def waves(context: dg.AssetExecutionContext, compute: ComputeResource):  # type: ignore[no-untyped-def]
        return compute.run_partitions(context, payload, keep_on_cluster=["wave"]).get_kept_result()

    @dg.asset(partitions_def=both)
    def one(waves: RemotePath) -> None:
        loaded["south|feb"] = waves

    definitions = dg.Definitions(
        assets=[waves, one],
        jobs=[dg.define_asset_job("range", "waves"), dg.define_asset_job("single", "one")],
        resources={"compute": ComputeResource(mode="local"), "on_cluster": SlurmPathIOManager()},
    )
    assert execute(definitions.resolve_job_def("range"), instance, ("feb|north", "feb|south")).success
    assert execute(definitions.resolve_job_def("single"), instance, "feb|south").success
    assert texts(loaded) == {"south|feb": "feb|south"}


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"jan": RemotePath("/a/jan"), "feb": {"x": RemotePath("/a/x"), "y": RemotePath("/a/y")}}, ""),
        ({"feb": RemotePath("/a/feb")}, ""),
        (RemotePath("/a"), "The run has 2 partitions, and the asset's value is no mapping from their keys"),
        ({"jan": RemotePath("/a"), "mar": RemotePath("/a")}, "no mapping from their keys"),
        ({}, "no mapping from their keys"),
        ({"jan": 1, "feb": RemotePath("/a")}, "stores a RemotePath or a mapping of them"),
    ],
)
def test_the_value_of_one_job_for_a_range(instance: dg.DagsterInstance, value: Any, error: str) -> None:
    loaded: Values = {}

    @dg.asset(partitions_def=MONTHS, backfill_policy=ONE_RUN, io_manager_key="on_cluster")
    def waves() -> Any:
        return value

    @dg.asset(
        partitions_def=MONTHS,
        backfill_policy=ONE_RUN,
        ins={"waves": dg.AssetIn(metadata={"allow_missing_partitions": True})},
    )
    def each(waves: Any) -> None:
        loaded.update(waves)

    definitions = dg.Definitions(assets=[waves, each], resources={"on_cluster": SlurmPathIOManager()})
    done = execute(definitions.resolve_implicit_global_asset_job_def(), instance, ("jan", "feb"))
    assert done.success == (not error)
    told = [each.user_message for each in instance.all_logs(done.run_id)]
    if error:
        (failed,) = [event for event in done.all_node_events if event.is_step_failure]
        assert error in failed.step_failure_data.error.to_string()  # type: ignore[union-attr]
        assert not list(Path(instance.storage_directory()).glob("slurm_paths/**/*.json"))
    else:
        assert loaded == value
        lacking = [text for text in told if "No value was stored of 1 of 2 partitions, such as jan" in text]
        assert len(lacking) == (len(value) == 1)
