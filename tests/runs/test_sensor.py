"""The sensor for those with a daemon."""

from __future__ import annotations

import dagster as dg
import pytest

from dagster_slurm import build_slurm_orphan_reconcile_sensor
from tests.runs.conftest import World

Status = dg.DagsterRunStatus


def evaluate(instance: dg.DagsterInstance) -> str:
    """One tick; what it says."""
    with dg.build_sensor_context(instance=instance) as context:
        said = build_slurm_orphan_reconcile_sensor()(context)
    assert isinstance(said, dg.SkipReason)
    return said.skip_message or ""


@pytest.mark.process
def test_it_marks_and_says_what_is_missing(world: World) -> None:
    killed = world.killed_run()
    with world.open() as instance:
        said = evaluate(instance)
        assert f"{killed.run_id} in_process: process" in said
        assert "marked failed" in said
        assert "Nothing retries them: set `run_retries" in said
        assert [run.status for run in instance.get_runs()] == [Status.FAILURE]
        assert evaluate(instance) == "No run of Slurm jobs has lost its processes."
    # Whoever asks for it later has it finished.
    world.touch("go")
    assert world.reconcile().returncode == 0
    assert [run.status for run in world.runs()] == [Status.FAILURE, Status.SUCCESS]


@pytest.mark.process
def test_with_run_retries_the_run_will_be_retried(world: World) -> None:
    (world.directory / "home" / "dagster.yaml").write_text("run_retries: {enabled: true, max_retries: 2}\n")
    world.killed_run()
    with world.open() as instance:
        assert evaluate(instance).endswith("run_retries finish those that failed.")
    (run,) = world.runs()
    assert (run.status, run.tags["dagster/will_retry"]) == (Status.FAILURE, "true")


def test_its_settings() -> None:
    sensor = build_slurm_orphan_reconcile_sensor("mine", minimum_interval_seconds=5)
    assert (sensor.name, sensor.minimum_interval_seconds) == ("mine", 5)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    dg.Definitions.validate_loadable(dg.Definitions(sensors=[sensor]))
