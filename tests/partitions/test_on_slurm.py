"""All partitions of a run as job arrays of a real cluster: once each, whatever dies."""

import re
import signal
import sys
import time
from collections.abc import Iterator

import dagster as dg
import pytest
from click.testing import CliRunner

from dagster_slurm.cli import main
from dagster_slurm.sandbox import Sandbox
from tests.support.environments import copied_environment

from ..support import forked, memory
from ..support.slurm_jobs import queued_jobs
from ..support.waiting import eventually
from .conftest import Make, World

pytestmark = [pytest.mark.cluster, pytest.mark.any_storage, pytest.mark.timeout(240)]

HELD = "while ! [ -e MARKS/go ]; do sleep 0.2; done\n"


@pytest.fixture(autouse=True)
def _nothing_is_left(sandbox: Sandbox) -> Iterator[None]:
    yield
    sandbox.run(["scancel", f"--user={sandbox.user}"])


def each_once(world: World) -> None:
    assert world.executed() == dict.fromkeys(world.all_names(), 1)
    assert world.materialized() == dict.fromkeys(world.all_names(), 1)


def texts(world: World, run_id: str) -> list[str]:
    return [entry.user_message for entry in world.instance().all_logs(run_id)]


def test_one_array_and_a_record_for_each_partition(make: Make, sandbox: Sandbox) -> None:
    world = make("echo $DAGSTER_SLURM_PARTITION_KEY says hello\n", count=12, cluster=sandbox)
    logins, arrays = sandbox.logins(), len(world.arrays())
    done = world.run()
    assert done.success
    each_once(world)
    assert len(world.arrays()) - arrays == 1
    assert sandbox.logins() - logins <= 1
    made = [{name: value.value for name, value in each.metadata.items()} for each in world.materializations()]
    array = world.arrays()[-1]
    assert sorted(each["slurm_job_id"] for each in made) == sorted(f"{array}_{task}" for task in range(12))
    assert {each["slurm_state"] for each in made} == {"COMPLETED"}
    assert sorted(world.materialized("after")) == world.all_names()
    base = sandbox.home / "runs" / world.directory.name / "runs"
    eventually(lambda: not list(base.glob("*/many-*")), "the directory is removed", seconds=20.0)


def test_lines_tell_whose_they_are(make: Make, sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    world = make("for n in 1 2 3; do echo $n; done; printf end\n", count=3, cluster=sandbox)
    assert world.run().success
    lines = capfd.readouterr().out.splitlines()
    for name in world.all_names():
        assert [line for line in lines if line.startswith(f"[{name}]")] == [
            f"[{name}] {said}" for said in ("1", "2", "3", "end")
        ]


def test_pipes_in_every_task(make: Make, sandbox: Sandbox) -> None:
    environment = copied_environment(sandbox, "tests", ["dagster-pipes"])
    world = make("", count=4, cluster=sandbox, ENVIRONMENT=environment)
    payload = world.directory / "payload.py"
    payload.write_text(
        "from dagster_pipes import open_dagster_pipes\n"
        "with open_dagster_pipes() as pipes:\n"
        "    number = int(pipes.partition_key[1:]) * pipes.get_extra('factor')\n"
        "    pipes.report_asset_materialization(metadata={'number': number})\n"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PAYLOAD", str(payload))
        assert world.run().success
    made = {str(each.partition): each.metadata["number"].value for each in world.materializations()}
    assert made == {"p000": 0, "p001": 3, "p002": 6, "p003": 9}


def test_each_task_tells_the_memory_that_it_has_had(make: Make, sandbox: Sandbox) -> None:
    """Its own, whatever its neighbours have."""
    world = make("", count=3, cluster=sandbox, MEM="2G")
    payload = world.directory / "payload.py"
    of_each = {"p000": memory.HAS_150_MIB, "p001": memory.READS_1_GIB, "p002": "pass\n"}
    payload.write_text(f"import os\nexec({of_each!r}[os.environ['DAGSTER_SLURM_PARTITION_KEY']])\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PAYLOAD", str(payload))
        assert world.run().success
    made = {str(each.partition): each.metadata for each in world.materializations()}
    had = {name: metadata["max_memory_mb"].value for name, metadata in made.items()}
    assert memory.is_150_mib(had["p000"]) and memory.is_without_files(had["p001"]) and had["p002"] < 40, had
    used = {name: metadata["memory_efficiency_pct"].value for name, metadata in made.items()}
    assert used == {name: pytest.approx(100 * mib / 2048, abs=0.1) for name, mib in had.items()}
    assert all(0 < metadata["cpu_efficiency_pct"].value <= 110 for metadata in made.values())


def test_failures_fail_alone_and_a_retry_submits_only_those(make: Make, sandbox: Sandbox) -> None:
    world = make(
        "[ -e MARKS/good ] || case $DAGSTER_SLURM_PARTITION_KEY in *[37]) echo bad >&2; exit 3;; esac\n",
        count=20,
        cluster=sandbox,
    )
    failed = world.run()
    assert not failed.success
    bad = world.names(3, 7, 13, 17)
    (step,) = [event for event in failed.all_node_events if event.is_step_failure]
    told = step.step_failure_data.user_failure_data
    assert told is not None
    assert told.metadata["slurm_failed_partitions"].value == bad
    assert told.description is not None and "bad" in told.description
    assert sorted(world.materialized()) == sorted(set(world.all_names()) - set(bad))
    (world.marks / "good").touch()
    arrays = len(world.arrays())
    assert world.retry(failed.run_id)
    assert len(world.arrays()) - arrays == 1
    assert world.executed() == {name: 2 if name in bad else 1 for name in world.all_names()}
    assert world.materialized() == dict.fromkeys(world.all_names(), 1)


def test_killed_in_flight_and_retried(make: Make, sandbox: Sandbox) -> None:
    world = make(f"case $DAGSTER_SLURM_PARTITION_KEY in p00[0-4]) exit 0;; esac\n{HELD}", count=10, cluster=sandbox)
    process = world.process()
    eventually(lambda: len(world.materialized()) == 5 and len(world.executed()) == 10, "half of them are done")
    process.kill()
    process.wait()
    instance = world.instance()
    (killed,) = instance.get_runs()
    instance.report_run_failed(killed)
    (world.marks / "go").touch()
    assert world.retry(killed.run_id)
    each_once(world)
    assert len({name.partition("_")[0] for name in job_ids(world)}) == 1


def has_begun(instance: dg.DagsterInstance) -> bool:
    started = dg.DagsterEventType.STEP_START
    return any(list(instance.all_logs(run.run_id, of_type=started)) for run in instance.get_runs())


def job_ids(world: World) -> list[str]:
    return [str(each.metadata["slurm_job_id"].value) for each in world.materializations()]


@pytest.mark.all_faults
@pytest.mark.parametrize("after_seconds", [0.0, 0.3, 0.6, 0.9, 1.2, 1.6, 2.0, 2.6])
def test_killed_at_some_moment_and_retried(make: Make, sandbox: Sandbox, after_seconds: float) -> None:
    world = make("sleep 0.5\n", count=8, cluster=sandbox)
    process = world.process()
    eventually(lambda: has_begun(world.instance()), "the step has begun", pause_seconds=0.02)
    time.sleep(after_seconds)
    process.kill()
    process.wait()
    instance = world.instance()
    (killed,) = instance.get_runs()
    if killed.is_finished:
        each_once(world)
        return
    instance.report_run_failed(killed)
    assert world.retry(killed.run_id)
    each_once(world)


def test_a_signal_of_a_restart_ends_nothing(make: Make, sandbox: Sandbox) -> None:
    world = make(HELD, count=4, cluster=sandbox)
    process = world.process()
    world.eventually_executed(4)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert process.poll() is None
    (world.marks / "go").touch()
    assert process.wait(timeout=60) == 0
    each_once(world)


def test_not_more_at_once_than_allowed(make: Make, sandbox: Sandbox) -> None:
    world = make(
        ": >MARKS/run.$DAGSTER_SLURM_PARTITION_KEY; ls MARKS | grep -c ^run >>MARKS/seen; sleep 0.5\n"
        "rm MARKS/run.$DAGSTER_SLURM_PARTITION_KEY\n",
        count=8,
        cluster=sandbox,
        MAX_PARALLEL="2",
    )
    assert world.run().success
    each_once(world)
    assert max(map(int, (world.marks / "seen").read_text().split())) <= 2


def test_more_than_an_array_may_have(make: Make, sandbox: Sandbox) -> None:
    """MaxArraySize is 26 there."""
    world = make("", count=60, cluster=sandbox)
    arrays = len(world.arrays())
    assert world.run().success
    each_once(world)
    assert len(world.arrays()) - arrays == 3


def test_more_than_may_be_submitted(make: Make, sandbox: Sandbox) -> None:
    world = make("sleep 0.5\n", count=14, cluster=sandbox)
    modify = ["sacctmgr", "-i", "modify", "qos", "normal", "set"]
    assert sandbox.run([*modify, "MaxSubmitJobsPerUser=4"], user="root").returncode == 0
    try:
        assert world.run().success
    finally:
        assert sandbox.run([*modify, "MaxSubmitJobsPerUser=-1"], user="root").returncode == 0
    each_once(world)


def test_it_is_one_job_in_the_listing(make: Make, sandbox: Sandbox) -> None:
    world = make(f"[ $DAGSTER_SLURM_PARTITION_KEY = p000 ] || {HELD}", count=4, cluster=sandbox)
    process = world.process()
    world.eventually_executed(4)
    (array,) = {line.partition("_")[0] for line in queued_jobs(sandbox, world.directory.name)}
    listed = CliRunner().invoke(main, ["jobs"], catch_exceptions=False).output
    mine = [line for line in listed.splitlines() if "many" in line and re.search(r"\b3R\b", line)]
    assert len(mine) == 1 and mine[0].split()[0] == array, listed
    (world.marks / "go").touch()
    assert process.wait(timeout=60) == 0


@pytest.mark.all_faults
def test_a_requeued_task_has_one_record(make: Make, sandbox: Sandbox) -> None:
    world = make(HELD, count=3, cluster=sandbox)
    process = world.process()
    world.eventually_executed(3)
    (array,) = {line.partition("_")[0] for line in queued_jobs(sandbox, world.directory.name)}
    assert sandbox.run(["scontrol", "requeue", f"{array}_1"], user="root").returncode == 0
    eventually(lambda: world.executed()["p001"] == 2, "it runs again", seconds=200.0)
    (world.marks / "go").touch()
    assert process.wait(timeout=60) == 0
    assert world.materialized() == dict.fromkeys(world.all_names(), 1)
    assert world.executed() == {"p000": 1, "p001": 2, "p002": 1}


def test_a_wrong_option_is_refused_before_anything_is_uploaded(make: Make, sandbox: Sandbox) -> None:
    world = make("", count=3, cluster=sandbox)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MAX_PARALLEL", "-1")
        failed = world.run()
    (step,) = [event for event in failed.all_node_events if event.is_step_failure]
    assert "max_parallel is -1" in step.step_failure_data.error.to_string()  # type: ignore[union-attr]
    assert not (sandbox.home / "runs" / world.directory.name / "runs").exists()


def test_node_hours_of_all_partitions_together(make: Make, sandbox: Sandbox) -> None:
    world = make("", count=3, cluster=sandbox, MAX_NODE_HOURS="0.2")
    failed = world.run()
    (step,) = [event for event in failed.all_node_events if event.is_step_failure]
    said = step.step_failure_data.error.to_string()  # type: ignore[union-attr]
    assert "0.25 node-hours (3 tasks of 1 node), and max_node_hours is 0.2" in said


def test_a_backfill_from_the_command_line(make: Make, sandbox: Sandbox) -> None:
    world = make("", count=5, cluster=sandbox)
    argv = [
        sys.executable,
        "-m",
        "dagster",
        "asset",
        "materialize",
        "--select",
        "many",
        "--partition-range",
        "p001...p003",
    ]
    done = forked.run([*argv, "-m", "tests.partitions.project"], timeout=120)
    assert done.returncode == 0, done.stderr
    assert world.materialized() == dict.fromkeys(world.names(1, 2, 3), 1)
