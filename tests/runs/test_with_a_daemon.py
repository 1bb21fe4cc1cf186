"""A real `dagster dev`: its code server launches the run, its daemon evaluates the sensor and retries."""

from __future__ import annotations

import dagster as dg
import pytest

from tests.runs.conftest import World
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

Status = dg.DagsterRunStatus
RUN_RETRIES = "run_retries: {enabled: true, max_retries: 2}\ntelemetry: {enabled: false}\n"


def retried(world: World) -> bool:
    """Whether there is a second run, and it succeeded."""
    return [run.status for run in world.runs()] == [Status.FAILURE, Status.SUCCESS]


def killed_with_everything(world: World, job: str) -> dg.DagsterRun:
    """A run that was launched from the UI, after `kill -9` of all that belongs to it.

    As long as the code server lives, it notices by itself that a run's process has died.
    """
    killed = world.launch(world.develop(), job)
    world.kill_everything()
    world.touch("go")
    assert [run.status for run in world.runs()] == [Status.STARTED]
    return killed


def test_the_sensor_marks_and_the_daemon_retries(world: World) -> None:
    (world.directory / "home" / "dagster.yaml").write_text(RUN_RETRIES)
    killed = killed_with_everything(world, "multiprocess")
    world.develop()
    eventually(lambda: retried(world), world.said(), seconds=120)
    retry = world.runs()[-1]
    assert retry.parent_run_id == killed.run_id
    assert retry.tags["dagster/retry_number"] == "1"
    assert (world.marks("first"), world.marks("slow"), world.marks("last")) == (1, 2, 1)
    with world.open() as instance:
        messages = [entry.message for entry in instance.all_logs(killed.run_id)]
    assert any(message.startswith("The processes of this run have died") for message in messages)


@pytest.mark.all_faults
def test_reconcile_leaves_the_retry_to_the_daemon(world: World) -> None:
    (world.directory / "home" / "dagster.yaml").write_text(RUN_RETRIES)
    lines = world.project.read_text().splitlines()
    world.project.write_text("\n".join(line for line in lines if "sensors=" not in line))
    killed_with_everything(world, "in_process")
    world.develop()
    done = world.reconcile()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("marked failed; Dagster's daemon retries it (run_retries)\n")
    eventually(lambda: retried(world), world.said(), seconds=120)
    assert world.reconcile().stdout == "No run of Slurm jobs is in progress.\n"
    assert len(world.runs()) == 2


@pytest.mark.all_faults
def test_everything_is_killed_and_no_daemon_comes_back(world: World) -> None:
    killed = killed_with_everything(world, "multiprocess")
    done = world.reconcile()
    assert done.returncode == 0, done.stdout + done.stderr
    assert retried(world)
    retry = world.runs()[-1]
    assert retry.parent_run_id == killed.run_id
    # With these the UI and the daemon can execute it again.
    assert retry.remote_job_origin == killed.remote_job_origin is not None
    assert retry.tags["dagster/code_location"] == "project.py"
    assert ".dagster/grpc_info" not in retry.tags
