"""Retries, restarts and terminations of a step on Slurm: each payload once, each end told apart."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, reconcile_orphaned_slurm_runs
from dagster_slurm.cluster import look as look_module
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.work.on_cluster import ClusterCarriers
from tests.support.controller import controller_stopped
from tests.support.waiting import eventually

from . import retried as project
from .conftest import compute_log

pytestmark = [pytest.mark.cluster, pytest.mark.any_storage, pytest.mark.timeout(180)]

MARKING = "echo started $SLURM_JOB_ID >>{marks}\nfor n in 1 2 3 4 5 6; do echo line $n; sleep {pause}; done\n"
LINES = "".join(f"line {n}\n" for n in range(1, 7))

Make = Callable[..., ComputeResource]


class World:
    """The payload, its marks, and the runs."""

    def __init__(self, sandbox: Sandbox, instance: dg.DagsterInstance, make: Make, tmp_path: Path) -> None:
        self.sandbox = sandbox
        self.instance = instance
        self.executing = False
        self.settings = project.SETTINGS = project.Settings()
        self.settings.make_compute = make
        self.marks_path = f"{sandbox.home}/marks-{uuid.uuid4().hex}"
        self.settings.payload = self.payload(tmp_path / "payload.sh")

    def payload(self, path: Path, *, pause: float = 0.8, then: str = "") -> Path:
        path.write_text(MARKING.format(marks=self.marks_path, pause=pause) + then)
        return path

    def take_longer(self) -> None:
        """The job is to go on when a retry looks for it, on a busy machine as well."""
        self.payload(self.settings.payload, pause=2.0)

    def marks(self) -> list[str]:
        """The jobs that ran a payload, in their order."""
        said = self.sandbox.run(["sh", "-c", f"cat {self.marks_path} 2>/dev/null || :"]).stdout
        return [line.split()[-1] for line in said.splitlines()]

    def execute(self, name: str = "measured", **options: object) -> dg.JobExecutionResult:
        job = dg.reconstructable(getattr(project, f"{name}_job"))
        self.executing = True
        try:
            return dg.execute_job(job, self.instance, **options)  # type: ignore[arg-type]
        finally:
            self.executing = False

    def interrupt(self) -> None:
        """Ctrl-C, and again."""
        for _ in range(2):
            assert self.executing
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.1)

    def again(self, result: dg.JobExecutionResult, name: str = "measured") -> dg.JobExecutionResult:
        """Re-execution from failure."""
        options = dg.ReexecutionOptions.from_failure(result.run_id, self.instance)
        return self.execute(name, reexecution_options=options)

    def messages(self, result: dg.JobExecutionResult) -> str:
        return "\n".join(entry.user_message for entry in self.instance.all_logs(result.run_id))

    def log(self, result: dg.JobExecutionResult) -> str:
        return compute_log(result, self.instance)  # type: ignore[arg-type]

    def status(self, result: dg.JobExecutionResult) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(result.run_id)
        assert run
        return run.status

    def state(self, job_id: str) -> str:
        return self.sandbox.run(
            ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job_id}"]
        ).stdout.strip()

    def while_it_runs(self, disturb: Callable[[], None]) -> threading.Thread:
        """Do something on another thread as soon as the payload has begun."""

        def work() -> None:
            eventually(lambda: bool(self.marks()))
            disturb()

        thread = threading.Thread(target=work)
        thread.start()
        return thread


@pytest.fixture
def world(sandbox: Sandbox, instance: dg.DagsterInstance, slurm: Make, tmp_path: Path) -> Iterator[World]:
    yield World(sandbox, instance, slurm, tmp_path)
    project.SETTINGS = project.Settings()


class TestRetries:
    """Of the step by its policy, and of the run from failure."""

    def test_a_failed_job_is_followed_by_a_new_one(self, world: World, tmp_path: Path) -> None:
        world.settings.payload = world.payload(
            tmp_path / "second.sh", pause=0.01, then=f"[ $(wc -l <{world.marks_path}) = 2 ]\n"
        )
        result = world.execute("retried")
        assert result.success
        assert len(set(world.marks())) == 2
        assert world.settings.bodies == ["retried"] * 2

    def test_a_completed_job_is_collected_when_the_body_fails_behind_it(self, world: World) -> None:
        def fail_once(body: int) -> None:
            if body == 1:
                raise RuntimeError("behind the job")

        world.settings.after = fail_once
        result = world.execute("retried")
        assert result.success
        (job_id,) = world.marks()
        (materialization,) = result.asset_materializations_for_node("retried")
        assert str(materialization.metadata["slurm_job_id"].value) == job_id
        assert f"Collecting Slurm job {job_id}" in world.messages(result)

    @pytest.mark.parametrize("ends", ["exit 3", ""], ids=["badly", "well"])
    def test_a_job_is_followed_of_which_it_is_not_known_yet_how_it_ended(
        self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
    ) -> None:
        """Its process was killed, and the accounting lags behind while the retry looks: the end counts all the same."""
        world.settings.payload = world.payload(
            tmp_path / "once.sh", pause=0.01, then=f"[ $(wc -l <{world.marks_path}) != 1 ] || {ends or 'exit 0'}\n"
        )
        watch = ClusterCarriers.watch

        def killed_once(carriers: ClusterCarriers, jobs: Any) -> None:
            if world.settings.bodies == ["retried"]:
                eventually(lambda: bool(world.marks()) and world.state(world.marks()[0]) in ("FAILED", "COMPLETED"))
                raise RuntimeError("killed")
            watch(carriers, jobs)

        monkeypatch.setattr(ClusterCarriers, "watch", killed_once)
        monkeypatch.setattr(look_module, "_with_accounting", lambda cluster, said, *answer: said)
        result = world.execute("retried")
        assert result.success
        assert len(world.marks()) == (2 if ends else 1)
        told = f"Slurm job {world.marks()[0]} ended as FAILED before this call looked for it"
        assert (told in world.messages(result)) is bool(ends)
        (outcome,) = result.asset_materializations_for_node("retried")
        assert str(outcome.metadata["slurm_job_id"].value) == world.marks()[-1]

    def test_of_two_calls_only_the_failed_one_is_repeated(self, world: World, tmp_path: Path) -> None:
        flag = f"{world.marks_path}.flag"
        world.settings.other = tmp_path / "other.sh"
        world.settings.other.write_text(f"[ -e {flag} ] || {{ touch {flag}; exit 1; }}\n")
        result = world.execute("retried")
        assert result.success
        assert len(world.marks()) == 1

    def test_a_new_run_is_a_new_piece_of_work(self, world: World, tmp_path: Path) -> None:
        world.settings.payload = world.payload(tmp_path / "fast.sh", pause=0.01)
        assert world.execute().success
        assert world.execute().success
        assert len(set(world.marks())) == 2


class TestSignals:
    """What a restart sends, and Ctrl-C."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_one_does_not_end_the_monitoring(self, world: World, number: signal.Signals) -> None:
        handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        thread = world.while_it_runs(lambda: os.kill(os.getpid(), number))
        result = world.execute()
        thread.join()
        assert result.success
        assert len(world.marks()) == 1
        assert world.log(result) == LINES
        assert "it goes on monitoring" in world.messages(result)
        assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == handlers

    @pytest.mark.parametrize("ended_meanwhile", [False, True], ids=["still running", "ended meanwhile"])
    def test_two_detach_and_a_retry_reattaches(self, world: World, ended_meanwhile: bool) -> None:
        if not ended_meanwhile:
            world.take_longer()
        thread = world.while_it_runs(world.interrupt)
        result = world.execute()
        thread.join()
        assert world.status(result) is dg.DagsterRunStatus.FAILURE
        (job_id,) = world.marks()
        if ended_meanwhile:
            eventually(lambda: world.state(job_id) == "COMPLETED")
        again = world.again(result)
        assert again.success
        assert world.marks() == [job_id]
        assert world.log(again) == LINES
        does = "Collecting" if ended_meanwhile else "Reattaching to"
        assert f"{does} Slurm job {job_id}" in world.messages(again)
        run = world.instance.get_run_by_id(again.run_id)
        assert run
        assert f"slurm/job/{job_id}" in run.tags

    def test_nothing_is_left_on_the_cluster(self, world: World, remote_files: Callable[[], list[str]]) -> None:
        assert world.execute().success
        eventually(lambda: remote_files() == [])


class TestTermination:
    """A user's: the run is CANCELING."""

    def test_of_a_running_job(self, world: World) -> None:
        thread = world.while_it_runs(lambda: self.terminate(world))
        result = world.execute("retried")
        thread.join()
        assert world.status(result) is dg.DagsterRunStatus.CANCELED
        (job_id,) = world.marks()
        assert world.state(job_id) == "CANCELLED"
        assert world.settings.bodies == ["retried"]

    def test_of_a_waiting_job_without_any_signal(self, world: World) -> None:
        """As "mark as canceled" does it, with the process alive."""
        world.settings.options = {"hold": True}
        found: list[str] = []

        def terminate() -> None:
            eventually(lambda: bool(self.submitted(world)))
            found.append(self.submitted(world))
            (run,) = world.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
            world.instance.report_run_canceled(run)

        thread = threading.Thread(target=terminate)
        thread.start()
        result = world.execute("retried")
        thread.join()
        assert world.status(result) is dg.DagsterRunStatus.CANCELED
        assert world.state(found[0]) == "CANCELLED"
        assert world.settings.bodies == ["retried"]
        assert world.marks() == []

    def test_before_the_submission(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        from dagster_slurm.run_directory import RunDirectory

        files_of = RunDirectory.files

        def made_and_terminated(*args: Any, **call: Any) -> Any:
            (run,) = world.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
            world.instance.report_run_canceling(run)
            # A status that is not older is not asked for again.
            time.sleep(0.25)
            return files_of(*args, **call)

        monkeypatch.setattr(RunDirectory, "files", made_and_terminated)
        result = world.execute("retried")
        assert world.status(result) is dg.DagsterRunStatus.CANCELED
        (event,) = [event for event in result.all_events if event.is_step_failure]
        assert "no job was submitted" in str(event.step_failure_data.error)
        assert world.settings.bodies == ["retried"]

    @pytest.mark.parametrize("part", ["sshd", pytest.param("slurmctld", marks=pytest.mark.all_faults)])
    def test_while_the_cluster_is_away(self, world: World, part: str) -> None:
        """It is tried again, as long as a restart takes."""
        world.payload(world.settings.payload, pause=5.0)

        def terminate() -> None:
            away = controller_stopped(world.sandbox) if part == "slurmctld" else world.sandbox.broken(part)
            with away:
                self.terminate(world)
                time.sleep(5)

        thread = world.while_it_runs(terminate)
        result = world.execute("retried")
        thread.join()
        assert world.status(result) is dg.DagsterRunStatus.CANCELED
        (job_id,) = world.marks()
        assert world.state(job_id) == "CANCELLED"
        assert f"The run was terminated: Slurm job {job_id} was cancelled" in self.failure(result)

    def test_what_could_not_be_cancelled_is_by_reconcile(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """The run says what is left, and keeps it."""
        world.payload(world.settings.payload, pause=10.0)
        monkeypatch.setattr("dagster_slurm.pipes.interruptions._CANCEL_SECONDS", 3.0)
        for name, value in world.sandbox.env().items():
            monkeypatch.setenv(name, value)
        ended = threading.Event()

        def terminate() -> None:
            with world.sandbox.broken("sshd"):
                self.terminate(world)
                ended.wait(60)

        thread = world.while_it_runs(terminate)
        result = world.execute("retried")
        (job_id,) = world.marks()
        assert world.status(result) is dg.DagsterRunStatus.CANCELED
        assert f"Slurm job {job_id} was to be cancelled, and that is not confirmed: " in self.failure(result)
        events = [entry.dagster_event for entry in world.instance.all_logs(result.run_id) if entry.dagster_event]
        assert any("Still to be cancelled on " in str(event.message) for event in events)
        ended.set()
        thread.join()
        assert world.state(job_id) == "RUNNING"
        (would,) = reconcile_orphaned_slurm_runs(world.instance, retry=False, dry_run=True)
        assert (would.verdict.value, would.settled) == ("cancelling", False)
        assert job_id in would.done
        (found,) = reconcile_orphaned_slurm_runs(world.instance, retry=False)
        assert (found.run_id, found.done, found.settled) == (result.run_id, "its jobs were cancelled", True)
        assert world.state(job_id) == "CANCELLED"
        assert reconcile_orphaned_slurm_runs(world.instance, retry=False) == []

    def test_of_a_job_whose_directory_was_removed(self, world: World) -> None:
        def terminate() -> None:
            path = eventually(lambda: self.started(world).tags.get("slurm/run_directory"), "the tag of the directory")
            assert path.startswith("/")
            assert world.sandbox.run(["rm", "-rf", "--", path]).returncode == 0
            self.terminate(world)

        thread = world.while_it_runs(terminate)
        world.execute("retried")
        thread.join()
        (job_id,) = world.marks()
        eventually(lambda: world.state(job_id) in ("CANCELLED", ""), "the end of the job")

    def started(self, world: World) -> dg.DagsterRun:
        (run,) = world.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        return run

    def terminate(self, world: World) -> None:
        world.instance.report_run_canceling(self.started(world))
        os.kill(os.getpid(), signal.SIGINT)

    def failure(self, result: dg.JobExecutionResult) -> str:
        (event,) = [event for event in result.all_events if event.is_step_failure]
        return str(event.step_failure_data.error)

    def submitted(self, world: World) -> str:
        runs = world.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        return (
            next((name.rpartition("/")[2] for name in runs[0].tags if name.startswith("slurm/job/")), "")
            if runs
            else ""
        )


class TestElsewhere:
    """Jobs of other pieces of work."""

    def interrupted(self, world: World) -> dg.JobExecutionResult:
        world.take_longer()
        thread = world.while_it_runs(world.interrupt)
        result = world.execute()
        thread.join()
        return result

    def test_never(self, world: World, slurm: Make) -> None:
        world.settings.make_compute = lambda: slurm(reattach="never")
        result = self.interrupted(world)
        assert world.again(result).success
        assert len(set(world.marks())) == 2
