"""Two code locations that know nothing of each other: one PostgreSQL, one cluster, one directory there.

Their jobs, assets and partitions have the same names. Each has a step that is retried, and an array of partitions, at
once on threads.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm.sandbox import Sandbox
from tests.runs.conftest import World
from tests.support import graphql
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("storage", ["postgres"], indirect=True),
]

PLACES = ("north", "south")
PARTITIONS = ["a", "b", "c"]
RANGE = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"}
PROJECT = """
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, threaded_executor

HERE = Path(__file__)
PARTITIONS = dg.StaticPartitionsDefinition(["a", "b", "c"])
PLACE = {"PLACE": HERE.stem}


@dg.asset(partitions_def=PARTITIONS, backfill_policy=dg.BackfillPolicy.single_run())
def many(context: dg.AssetExecutionContext, compute: ComputeResource):
    return compute.run_partitions(context, HERE.with_name("many.sh"), extra_env=PLACE).get_materialize_result()


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
def again(context: dg.AssetExecutionContext, compute: ComputeResource):
    return compute.run(context, HERE.with_name("again.sh"), extra_env=PLACE).get_materialize_result()


queue = SlurmQueueConfig(partition="compute", mem="20M", cpus=1, time_limit="00:05:00")
base = SlurmResource.from_env()
slurm = SlurmResource(ssh=base.ssh, queue=queue, remote_base=base.remote_base)
defs = dg.Definitions(
    assets=[many, again],
    jobs=[dg.define_asset_job("all", "*")],
    resources={"compute": ComputeResource(mode="slurm", slurm=slurm)},
    executor=threaded_executor,
)
"""
LAUNCH = """mutation($place: String!, $tags: [ExecutionTag!]) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: $place, repositoryName: "__repository__", jobName: "all"},
    runConfigData: "{}", mode: "default", executionMetadata: {tags: $tags}
  }) { __typename ... on PythonError { message } ... on RunConflict { message } }
}"""


class Two:
    """Two locations, and what their payloads note on the cluster."""

    def __init__(self, world: World, sandbox: Sandbox) -> None:
        self.world = world
        self.marks = Path(tempfile.mkdtemp(prefix="two-", dir=sandbox.home))
        self.marks.chmod(0o777)
        for place in PLACES:
            (world.directory / f"{place}.py").write_text(PROJECT)
        held = f"while [ -e {self.marks}/hold ]; do sleep 0.2; done\n"
        note = f"echo $DAGSTER_SLURM_PARTITION_KEY >>{self.marks}/$PLACE\n{held}"
        (world.directory / "many.sh").write_text(note)
        fails_first = f"[ $(grep -c again {self.marks}/$PLACE) = 2 ]\n"
        (world.directory / "again.sh").write_text(f"echo again >>{self.marks}/$PLACE\n{held}{fails_first}")
        entries = [{"python_file": {"relative_path": f"{place}.py", "location_name": place}} for place in PLACES]
        (world.directory / "workspace.yaml").write_text(json.dumps({"load_from": entries}))

    def executed(self, place: str) -> Counter[str]:
        """How often each payload was begun."""
        path = self.marks / place
        return Counter(path.read_text().split()) if path.exists() else Counter()

    def materialized(self, instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[tuple[str, str | None]]:
        """What a run has on record."""
        entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        found = [entry.asset_materialization for entry in entries]
        return sorted((each.asset_key.to_user_string(), each.partition) for each in found if each)

    def develop(self) -> int:
        port = graphql.free_port()
        self.world.start("dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port))
        return port

    def launch(self, port: int, place: str) -> None:
        """As the UI does."""
        answers: list[dict[str, Any]] = []
        tags = [{"key": key, "value": value} for key, value in RANGE.items()]

        def launched() -> bool:
            with suppress(OSError):
                answers.append(graphql.ask(port, LAUNCH, place=place, tags=tags)["launchRun"])
            return bool(answers) and answers[-1]["__typename"] == "LaunchRunSuccess"

        eventually(launched, lambda: f"a run that is launched: {answers[-1:]} {self.world.said()}", pause_seconds=0.3)


@pytest.fixture
def two(world: World, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    control = tempfile.mkdtemp(prefix="ssh-", dir="/tmp")
    base = {"SLURM_REMOTE_BASE": f"~/runs/{world.directory.name}", "DAGSTER_SLURM_SSH_CONTROL_DIR": control}
    for name, value in {**sandbox.env(), **base}.items():
        monkeypatch.setenv(name, value)
    yield Two(world, sandbox)
    sandbox.run(["scancel", f"--user={sandbox.user}"])


ONCE = Counter({**dict.fromkeys(PARTITIONS, 1), "again": 2})
MADE = [("again", None), *(("many", name) for name in PARTITIONS)]


def test_a_run_of_each_at_once(two: Two) -> None:
    tags = ["-j", "all", "--tags", json.dumps(RANGE)]
    runs = [two.world.start("dagster", "job", "execute", "-f", f"{place}.py", *tags) for place in PLACES]
    assert [process.wait(120) for process in runs] == [0, 0], two.world.said()
    assert [two.executed(place) for place in PLACES] == [ONCE, ONCE]
    with two.world.open() as instance:
        assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
        for run in two.world.runs():
            assert run.status is dg.DagsterRunStatus.SUCCESS
            assert two.materialized(instance, run) == MADE
            # Two jobs of the retried step, and one array.
            assert sum(name.startswith("slurm/job/") for name in run.tags) == 3


@pytest.mark.all_faults
def test_everything_is_killed_and_each_is_finished_by_its_own(two: Two) -> None:
    (two.marks / "hold").touch()
    port = two.develop()
    for place in PLACES:
        two.launch(port, place)
    eventually(lambda: all(two.executed(place).total() == 4 for place in PLACES), two.world.said)
    two.world.kill_everything()
    killed = two.world.runs()
    assert [run.status for run in killed] == [dg.DagsterRunStatus.STARTED] * 2
    (two.marks / "hold").unlink()
    done = two.world.reconcile()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [two.executed(place) for place in PLACES] == [ONCE, ONCE]
    retries = {run.parent_run_id: run for run in two.world.runs()[2:]}
    assert retries.keys() == {run.run_id for run in killed}
    with two.world.open() as instance:
        for run in killed:
            retry = retries[run.run_id]
            assert retry.status is dg.DagsterRunStatus.SUCCESS
            assert location(retry.tags) == location(run.tags) in PLACES
            assert sorted([*two.materialized(instance, run), *two.materialized(instance, retry)]) == MADE


def location(tags: Mapping[str, str]) -> str:
    return tags["dagster/code_location"]
