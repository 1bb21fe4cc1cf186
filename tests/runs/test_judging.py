"""Runs that cannot be judged, or not by leases; and runs without code."""

import sys
from dataclasses import asdict, replace

import dagster as dg
import pytest

from dagster_slurm import reconcile_orphaned_slurm_runs
from dagster_slurm.pipes.dagster_private import report_engine_event
from dagster_slurm.pipes.run_notes import LEASE_KEY
from dagster_slurm.process_identity import ProcessIdentity
from dagster_slurm.reconcile.decision import Verdict
from tests.runs.conftest import World
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

Status = dg.DagsterRunStatus


def lease_elsewhere(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """What a process of another machine would have written; there is only one machine here."""
    there = replace(ProcessIdentity.of_this_process(), host="cluster-7", boot_id="its-own")
    lease = {LEASE_KEY: dg.MetadataValue.json({"process": asdict(there)})}
    report_engine_event(instance, run, "worked on there", lease, step_key=None)


def test_a_run_of_another_machine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD", str(world.directory))
    killed = world.killed_run()
    world.touch("go")
    with world.open() as instance:
        lease_elsewhere(instance, killed)
        assert reconcile_orphaned_slurm_runs(instance, older_than_seconds=3600) == []
        (found,) = reconcile_orphaned_slurm_runs(instance)
        assert (found.verdict, found.settled) == (Verdict.ELSEWHERE, True)
        assert "host cluster-7" in found.done
        assert "--gone-host cluster-7" in found.done
        assert instance.get_runs() == [killed]
        (done,) = reconcile_orphaned_slurm_runs(instance, gone_hosts=["cluster-7"])
        assert (done.run_id, done.job_name, done.settled) == (killed.run_id, "in_process", True)
        retry = instance.get_run_by_id(done.retry_run_id or "")
        assert retry is not None
        assert retry.status is Status.SUCCESS


def test_a_host_that_is_called_gone_and_has_a_living_process(world: World) -> None:
    process = world.execute("in_process")
    world.wait_for("slow")
    with world.open() as instance:
        host = ProcessIdentity.of_this_process().host
        (found,) = reconcile_orphaned_slurm_runs(instance, gone_hosts=[host])
        assert found.verdict is Verdict.RUNNING
    assert process.poll() is None


def test_a_run_that_said_nothing(world: World) -> None:
    """As one that was killed before its first step began with a job; Dagster has noted a pid by then."""
    world.project.write_text(world.project.read_text().replace("    take_lease(context.instance, context.run)\n", ""))
    killed = world.killed_run()
    world.touch("go")
    done = world.reconcile()
    assert done.returncode == 0
    assert done.stdout == "No run of Slurm jobs is in progress.\n"
    assert f"--run {killed.run_id} finishes it" in done.stderr
    assert world.runs() == [killed]
    done = world.reconcile("--run", killed.run_id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [run.status for run in world.runs()] == [Status.FAILURE, Status.SUCCESS]


def test_a_run_that_said_nothing_and_lives(world: World) -> None:
    world.project.write_text(world.project.read_text().replace("    take_lease(context.instance, context.run)\n", ""))
    process = world.execute("multiprocess")
    world.wait_for("slow")
    (run,) = world.runs()
    done = world.reconcile("--run", run.run_id)
    assert done.returncode == 0
    assert "may still work on it" in done.stdout
    assert process.poll() is None


def test_a_child_without_a_lease_keeps_the_run(world: World) -> None:
    """Its step needs no cluster; the executor, which did have a step that does, was killed."""
    text = world.project.read_text()
    world.project.write_text(text.replace("    take_lease(", '    name == "first" and take_lease('))
    process = world.execute("multiprocess")
    world.wait_for("slow")
    process.kill()
    process.wait()
    with world.open() as instance:
        (found,) = reconcile_orphaned_slurm_runs(instance)
        assert found.verdict is Verdict.RUNNING
        assert (world.directory / "slow").read_text().strip() in found.done
        world.kill(process)
        # Of the child only the number is known, and on a busy machine another process may get it for a moment.
        eventually(lambda: verdict_of(instance) is Verdict.ORPHANED, "a run without processes")
        (found,) = reconcile_orphaned_slurm_runs(instance, retry=False)
        assert found.verdict is Verdict.ORPHANED


def verdict_of(instance: dg.DagsterInstance) -> Verdict:
    return reconcile_orphaned_slurm_runs(instance, retry=False, dry_run=True)[0].verdict


def test_a_run_whose_code_is_not_recorded(world: World) -> None:
    """It was executed from memory, as in a notebook."""
    (world.directory / "notebook.py").write_text(
        "import dagster as dg\nfrom project import defs\n"
        'defs.resolve_job_def("in_process").execute_in_process(instance=dg.DagsterInstance.get())\n'
    )
    process = world.start(sys.executable, "notebook.py")
    world.wait_for("slow")
    world.kill(process)
    world.touch("go")
    done = world.reconcile()
    assert done.returncode == 1
    assert "it is not recorded where its code is: name it with -f FILE or -m MODULE" in done.stdout
    assert [run.status for run in world.runs()] == [Status.FAILURE]
    # It is not forgotten.
    assert world.reconcile("--dry-run").stdout.endswith("it was marked failed and not retried; would be retried\n")
    done = world.reconcile("-m", "project", "-d", str(world.directory))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [run.status for run in world.runs()] == [Status.FAILURE, Status.SUCCESS]
