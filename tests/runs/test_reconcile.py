"""Runs whose processes were killed, and `dagster-slurm reconcile`."""

from __future__ import annotations

import os
import signal

import dagster as dg
import pytest

from dagster_slurm.pipes.run_notes import leases_of
from dagster_slurm.process_identity import ProcessIdentity
from tests.runs.conftest import World

pytestmark = [pytest.mark.process, pytest.mark.any_storage]

Status = dg.DagsterRunStatus


@pytest.mark.parametrize("executor", [pytest.param("in_process", marks=pytest.mark.all_faults), "multiprocess"])
def test_everything_is_killed_and_the_run_is_finished(world: World, executor: str) -> None:
    (world.directory / "config.yaml").write_text("ops: {slow: {config: {factor: 7}}}")
    killed = world.killed_run(executor, "-c", "config.yaml", "--tags", '{"team": "water"}')
    world.touch("go")
    done = world.reconcile()
    assert done.returncode == 0, done.stdout + done.stderr
    parent, retry = world.runs()
    assert done.stdout == f"{parent.run_id} {executor}: marked failed; its retry, run {retry.run_id}, succeeded\n"
    assert (parent.run_id, parent.status) == (killed.run_id, Status.FAILURE)
    assert parent.tags["dagster/failure_reason"] == "UNEXPECTED_TERMINATION"
    assert (retry.status, retry.parent_run_id, retry.root_run_id) == (Status.SUCCESS, killed.run_id, killed.run_id)
    expected = {"of": "the job", "team": "water", "dagster/is_resume_retry": "true"}
    assert {key: retry.tags.get(key) for key in expected} == expected
    assert retry.tags["dagster/parent_run_id"] == retry.tags["dagster/root_run_id"] == killed.run_id
    assert not {"dagster/failure_reason", "dagster-slurm/retry_pending"} & set(retry.tags)
    assert retry.run_config == killed.run_config
    assert (world.marks("first"), world.marks("slow"), world.marks("last")) == (1, 2, 1)
    assert world.reconcile().stdout == "No run of Slurm jobs is in progress.\n"


def test_leases_name_the_process_and_its_executor(world: World) -> None:
    process = world.execute("multiprocess")
    world.wait_for("slow")
    (run,) = world.runs()
    with world.open() as instance:
        leases = leases_of(instance, run.run_id)
    child = int((world.directory / "slow").read_text())
    assert {child, process.pid} <= {lease.pid for lease in leases}
    assert all(lease == ProcessIdentity.of(lease.pid) for lease in leases if lease.pid in (child, process.pid))


def test_a_run_that_lives_is_left_alone(world: World) -> None:
    process = world.execute("multiprocess")
    world.wait_for("slow")
    done = world.reconcile()
    assert done.returncode == 0
    assert done.stdout.endswith("works on it\n")
    (run,) = world.runs()
    assert run.status is Status.STARTED
    world.touch("go")
    assert process.wait(60) == 0
    assert [each.status for each in world.runs()] == [Status.SUCCESS]


def test_a_child_that_outlives_its_executor_keeps_the_run(world: World) -> None:
    process = world.execute("multiprocess")
    world.wait_for("slow")
    process.kill()
    process.wait()
    done = world.reconcile()
    assert "works on it" in done.stdout
    assert [run.status for run in world.runs()] == [Status.STARTED]
    world.kill(process)
    world.touch("go")
    assert world.reconcile().returncode == 0
    assert [run.status for run in world.runs()] == [Status.FAILURE, Status.SUCCESS]


def test_two_at_once_make_one_retry(world: World) -> None:
    killed = world.killed_run()
    world.touch("go")
    world.touch("hold")
    both = [world.start("dagster-slurm", "reconcile") for _ in range(2)]
    world.wait_for("last")
    (world.directory / "hold").unlink()
    assert [process.wait(90) for process in both] == [0, 0], world.said()
    _, *retries = world.runs()
    assert [retry.parent_run_id for retry in retries] == [killed.run_id]
    assert world.marks("slow") == 2


def test_a_retry_that_is_killed_is_retried(world: World) -> None:
    world.killed_run()
    (world.directory / "slow").unlink()
    first = world.start("dagster-slurm", "reconcile")
    world.wait_for("slow")
    world.kill(first)
    assert [run.status for run in world.runs()] == [Status.FAILURE, Status.STARTED]
    world.touch("go")
    done = world.reconcile()
    assert done.returncode == 0, done.stdout + done.stderr
    runs = world.runs()
    assert [run.status for run in runs] == [Status.FAILURE, Status.FAILURE, Status.SUCCESS]
    assert [run.parent_run_id for run in runs] == [None, runs[0].run_id, runs[1].run_id]
    assert {run.root_run_id for run in runs[1:]} == {runs[0].run_id}


def test_only_telling_and_only_marking(world: World) -> None:
    killed = world.killed_run()
    done = world.reconcile("--dry-run")
    assert done.returncode == 1
    assert done.stdout.endswith("is gone; would be marked failed and retried\n")
    assert world.runs() == [killed]
    done = world.reconcile("--no-retry")
    assert done.returncode == 0
    assert done.stdout.endswith("is gone; marked failed\n")
    assert [run.status for run in world.runs()] == [Status.FAILURE]
    # It stays with the user, and can be named.
    assert world.reconcile().stdout == "No run of Slurm jobs is in progress.\n"
    world.touch("go")
    assert world.reconcile("--run", world.runs()[0].run_id).returncode == 0
    assert [run.status for run in world.runs()] == [Status.FAILURE, Status.SUCCESS]


def test_a_retry_that_fails_is_told(world: World) -> None:
    world.killed_run()
    world.touch("go")
    world.touch("fail")
    done = world.reconcile()
    assert done.returncode == 1
    retry = world.runs()[-1]
    assert done.stdout.endswith(f"marked failed; its retry, run {retry.run_id}, failed\n")
    # It has failed by itself: that is an end, and the user's.
    assert world.reconcile().stdout == "No run of Slurm jobs is in progress.\n"


@pytest.mark.all_faults
def test_ctrl_c_is_left_to_the_retries(world: World) -> None:
    world.killed_run("multiprocess")
    (world.directory / "slow").unlink()
    process = world.start("dagster-slurm", "reconcile")
    world.wait_for("slow")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 1, world.said()
    assert "Waiting for the retries" in world.said()
    retry = world.runs()[-1]
    assert retry.status is Status.FAILURE
    assert f"marked failed; its retry, run {retry.run_id}, failed\n" in world.said()


def test_a_selection_and_a_partition_stay(world: World) -> None:
    process = world.start("dagster", "asset", "materialize", "-f", "project.py", "--select", "part", "--partition", "b")
    world.wait_for("part-b")
    world.kill(process)
    world.touch("go")
    done = world.reconcile()
    assert done.returncode == 0, done.stdout + done.stderr
    killed, retry = world.runs()
    assert retry.asset_selection == killed.asset_selection == {dg.AssetKey("part")}
    assert retry.tags["dagster/partition"] == "b"
    assert (world.marks("part-b"), world.marks("first")) == (2, 0)


def test_code_that_has_moved(world: World) -> None:
    world.killed_run()
    world.touch("go")
    moved = world.directory / "moved.py"
    world.project.rename(moved)
    done = world.reconcile()
    assert done.returncode == 1
    assert "its retry could not be started" in done.stdout
    assert [run.status for run in world.runs()] == [Status.FAILURE]
    done = world.reconcile("-f", str(moved))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [run.status for run in world.runs()] == [Status.FAILURE, Status.SUCCESS]


def test_canceling_is_carried_out_without_the_jobs(world: World) -> None:
    process = world.execute("in_process")
    world.wait_for("slow")
    with world.open() as instance:
        instance.report_run_canceling(world.runs()[0])
    world.kill(process)
    done = world.reconcile()
    assert done.returncode == 0
    assert done.stdout.endswith("marked canceled, as had been asked for; its jobs were not cancelled by this\n")
    (run,) = world.runs()
    assert run.status is Status.CANCELED
    with world.open() as instance:
        assert any("scancel" in (entry.message or "") for entry in instance.all_logs(run.run_id))


def test_killed_after_the_last_step(world: World) -> None:
    world.touch("go")
    world.touch("hold-after-last")
    process = world.execute("in_process")
    world.wait_for("after-last")
    world.kill(process)
    done = world.reconcile()
    assert done.returncode == 0
    assert done.stdout.endswith("every step had succeeded: marked succeeded\n")
    assert [each.status for each in world.runs()] == [Status.SUCCESS]


@pytest.mark.all_faults
def test_killed_between_two_steps(world: World) -> None:
    world.touch("go")
    world.touch("hold-after-slow")
    process = world.execute("in_process")
    world.wait_for("after-slow")
    world.kill(process)
    done = world.reconcile()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each.status for each in world.runs()] == [Status.FAILURE, Status.SUCCESS]
    assert (world.marks("first"), world.marks("slow"), world.marks("last")) == (1, 1, 1)


def test_a_place_in_a_pool_is_given_back(world: World) -> None:
    with world.open() as instance:
        instance.event_log_storage.set_concurrency_slots("cluster", 1)
    world.killed_run()
    world.touch("go")
    done = world.reconcile()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each.status for each in world.runs()] == [Status.FAILURE, Status.SUCCESS]


def test_without_dagster_home(world: World) -> None:
    done = world.reconcile(home="")
    assert done.returncode == 1
    assert done.stderr.startswith("dagster-slurm: DAGSTER_HOME is not set")
    assert len(done.stderr.splitlines()) == 2


def test_a_run_that_is_not_there(world: World) -> None:
    done = world.reconcile("--run", "nothing")
    assert done.returncode == 1
    assert "There is no run nothing" in done.stderr
