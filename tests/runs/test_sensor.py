"""The sensor for those with a daemon."""

from __future__ import annotations

import dagster as dg
import pytest

from dagster_slurm import SlurmResource, build_slurm_orphan_reconcile_sensor, reconcile_orphaned_slurm_runs
from dagster_slurm.pipes.launch_key import CONTINUES_TAG, Generation, lineage_of
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


class TestAsIn122:
    """Called with a `SlurmResource`, both do what they do in 1.22."""

    @pytest.mark.process
    def test_runs_are_requested_that_go_on(self, world: World) -> None:
        killed = world.killed_run()
        with world.open() as instance:
            assert reconcile_orphaned_slurm_runs(instance, SlurmResource(), stale_after_seconds=3600) == []
            requested = reconcile_orphaned_slurm_runs(instance, SlurmResource(), stale_after_seconds=0)
            (request,) = [each for each in requested if isinstance(each, dg.RunRequest)]
            assert [run.status for run in instance.get_runs()] == [Status.FAILURE]
            assert (request.run_key, request.job_name) == (f"slurm-orphan-{killed.run_id}", "in_process")
            assert request.tags[CONTINUES_TAG] == killed.run_id
            # What Dagster makes of it is of the same lineage, so that jobs are taken up and not submitted again.
            run = instance.add_run(dg.DagsterRun("in_process", tags=dict(request.tags)))
            assert [each.run_id for each in lineage_of(instance, run, "slow")] == [run.run_id, killed.run_id]
            assert lineage_of(instance, run, "slow")[0] == Generation(
                run.run_id, is_retry=True, step_succeeded=False, is_finished=False
            )
            assert reconcile_orphaned_slurm_runs(instance, slurm_resource=SlurmResource()) == []

    @pytest.mark.process
    def test_where_a_daemon_retries_none_is_requested(self, world: World) -> None:
        (world.directory / "home" / "dagster.yaml").write_text("run_retries: {enabled: true, max_retries: 2}\n")
        world.killed_run()
        with world.open() as instance:
            assert reconcile_orphaned_slurm_runs(instance, SlurmResource(), stale_after_seconds=0) == []
        (run,) = world.runs()
        assert (run.status, run.tags["dagster/will_retry"]) == (Status.FAILURE, "true")

    def test_the_sensor(self) -> None:
        @dg.op
        def work() -> None: ...

        @dg.job
        def works() -> None:
            work()

        slurm = SlurmResource()
        plain = build_slurm_orphan_reconcile_sensor(slurm)
        assert (plain.name, plain.minimum_interval_seconds) == ("slurm_orphan_reconcile_sensor", 30)
        assert plain.default_status is dg.DefaultSensorStatus.STOPPED
        of_jobs = build_slurm_orphan_reconcile_sensor(slurm_resource=slurm, jobs=[works], name="mine", limit=3)  # type: ignore[call-arg]
        assert [job.name for job in of_jobs.jobs] == ["works"]
        dg.Definitions.validate_loadable(dg.Definitions(jobs=[works], sensors=[plain, of_jobs]))
        with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance=instance) as context:
            assert isinstance(of_jobs(context), dg.SkipReason)
