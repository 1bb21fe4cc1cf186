"""What is found of a piece of work: a job to follow, or the attempt to begin. On Slurm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster import claims as claims_module
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.description import Description
from dagster_slurm.errors import AttemptClosedError, ProtocolVersionError, SlurmUnavailableError
from dagster_slurm.job.submission import Known, Open, Others, Reattachment
from dagster_slurm.run_directory import ONE, LaunchKey, RunDirectory
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.slurm.states import JobState
from tests.support.controller import controller_stopped
from tests.support.waiting import eventually

from .test_submission import Launch, all_ended, cluster

__all__ = ["cluster"]

pytestmark = pytest.mark.cluster


@pytest.fixture
def reattachment(cluster: SlurmCluster) -> Iterator[Reattachment]:
    yield Reattachment(cluster)


def first_of(launch: Launch) -> RunDirectory:
    return launch.key.first_attempt(launch.cluster.base())


def assert_next(found: Known, launch: Launch, attempt: int, *ends: JobState) -> None:
    assert found == replace(Known(following=attempt), outcomes=found.outcomes)
    assert tuple(outcome.state for outcome in found.outcomes.get(ONE, ())) == ends


def the_job(found: Known) -> Open:
    (opened,) = found.open
    return opened


def found_when_accounted(reattachment: Reattachment, launch: Launch) -> Known:
    """Until sacct knows the end, there is a job to follow."""
    found: list[Known] = []

    def is_decided() -> bool:
        found.append(reattachment.find(first_of(launch)))
        assert all(opened.over for opened in found[-1].open)
        return not found[-1].open

    eventually(is_decided)
    return found[-1]


class TestFind:
    """Of one launch."""

    def test_nothing(self, cluster: SlurmCluster, reattachment: Reattachment) -> None:
        first = LaunchKey("nowhere", "step").first_attempt(cluster.base())
        assert reattachment.find(first) == Known()

    def test_made_and_never_submitted(self, cluster: SlurmCluster, reattachment: Reattachment) -> None:
        """Whoever made it cannot submit any more: the next one's payload may be another."""
        launch = Launch(cluster)
        assert_next(reattachment.find(first_of(launch)), launch, 1)
        with pytest.raises(AttemptClosedError):
            launch.submit()
        assert_next(reattachment.find(first_of(launch)), launch, 1)
        assert launch.runs() == []

    def test_made_just_now_by_somebody_who_does_the_same(
        self, cluster: SlurmCluster, reattachment: Reattachment
    ) -> None:
        """Of two that begin at the same moment one submits, and neither has to begin anew."""
        launch = Launch(cluster)
        found = reattachment.find(first_of(launch), is_same=lambda told: told == Description())
        assert found == Known(begun=Description())
        assert_next(reattachment.find(first_of(launch), is_same=lambda told: told != Description()), launch, 1)

    def test_pending(self, cluster: SlurmCluster, reattachment: Reattachment, sandbox: Sandbox) -> None:
        launch = Launch(cluster, hold=True)
        job_id, _ = launch.submit()
        found = the_job(reattachment.find(first_of(launch)))
        assert (found.handle.job_id, found.over, found.handle.directory) == (job_id, frozenset(), launch.directory)
        sandbox.run(["scancel", job_id])

    def test_completed(self, cluster: SlurmCluster, reattachment: Reattachment) -> None:
        launch = Launch(cluster)
        job_id, _ = launch.submit()
        eventually(lambda: all_ended(cluster, [job_id]))
        found = the_job(reattachment.find(first_of(launch)))
        assert (found.handle.job_id, found.over) == (job_id, {ONE})

    def test_failed(self, cluster: SlurmCluster, reattachment: Reattachment) -> None:
        launch = Launch(cluster, time_limit="00:01:00")
        cluster.transport.run('echo "exit 3" >>"$1/work/mark.sh"', (launch.directory.path,))
        job_id, _ = launch.submit()
        eventually(lambda: all_ended(cluster, [job_id]))
        assert_next(found_when_accounted(reattachment, launch), launch, 1, JobState.FAILED)
        # What it has left is read, by whoever looks next.
        assert_next(reattachment.find(first_of(launch)), launch, 1, JobState.FAILED)
        with pytest.raises(AttemptClosedError):
            Claims(cluster).try_to_submit(launch.directory, generation=1)

    def test_cancelled_while_pending(self, cluster: SlurmCluster, reattachment: Reattachment, sandbox: Sandbox) -> None:
        launch = Launch(cluster, hold=True)
        job_id, _ = launch.submit()
        sandbox.run(["scancel", job_id])
        assert_next(found_when_accounted(reattachment, launch), launch, 1, JobState.CANCELLED)
        assert launch.runs() == []

    def test_login_node_crashed_before_the_answer(
        self,
        cluster: SlurmCluster,
        reattachment: Reattachment,
        sandbox: Sandbox,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The late job of a try that was given up ends at its gate."""
        monkeypatch.setattr("dagster_slurm.job.submission._ANSWER_SECONDS", 1.0)
        launch = Launch(cluster)
        sandbox.run(["mkdir", "-p", launch.directory.claim(0)])
        assert_next(reattachment.find(first_of(launch)), launch, 1)
        late = sandbox.run(["sbatch", "--parsable", "--job-name=late", launch.directory.script, "0"]).stdout.strip()
        eventually(lambda: all_ended(cluster, [late]))
        assert launch.runs() == []

    def test_slurm_does_not_answer(self, cluster: SlurmCluster, reattachment: Reattachment, sandbox: Sandbox) -> None:
        """No answer is not "not there"."""
        launch = Launch(cluster)
        job_id, _ = launch.submit()
        eventually(lambda: all_ended(cluster, [job_id]))
        with controller_stopped(sandbox), pytest.raises(SlurmUnavailableError):
            reattachment.find(first_of(launch))
        assert the_job(reattachment.find(first_of(launch))).over == {ONE}


class TestProtocol:
    """Another release's directories."""

    def test_a_newer_one_s_are_refused(self, cluster: SlurmCluster, reattachment: Reattachment) -> None:
        launch = Launch(cluster, hold=True)
        job_id, _ = launch.submit()
        cluster.transport.run('echo 99 >"$1/protocol"', (launch.directory.path,))
        with pytest.raises(ProtocolVersionError, match=r"has protocol version 99; this release knows 1"):
            reattachment.find(first_of(launch))
        cluster.cancel([job_id])

    def test_an_older_one_s_job_is_adopted(
        self, cluster: SlurmCluster, reattachment: Reattachment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a release will do it whose own version is 2."""
        launch = Launch(cluster)
        job_id, _ = launch.submit()
        monkeypatch.setattr(claims_module, "READABLE_PROTOCOLS", frozenset({1, 2}))
        monkeypatch.setattr("dagster_slurm.run_directory.PROTOCOL_VERSION", 2)
        assert the_job(reattachment.find(first_of(launch))).handle.job_id == job_id


class TestElsewhere:
    """A live job under another key becomes this key's."""

    def test_live(self, cluster: SlurmCluster, reattachment: Reattachment, sandbox: Sandbox) -> None:
        launch = Launch(cluster, hold=True)
        job_id, _ = launch.submit()
        own = LaunchKey("again", launch.key.origin_run_id).first_attempt(cluster.base())
        found = reattachment.find(own, others=Others([first_of(launch)]))
        assert (the_job(found).handle.job_id, found.was_elsewhere) == (job_id, True)
        # From now on it is found by the own key: also when it has completed.
        sandbox.run(["scontrol", "release", job_id])
        assert launch.wait_for_runs() == [job_id]
        eventually(lambda: all_ended(cluster, [job_id]))
        again = reattachment.find(own)
        assert (the_job(again).handle.job_id, the_job(again).over, again.was_elsewhere) == (job_id, {ONE}, False)
        own.remove(cluster.transport)
        for path in (own.launch, launch.directory.launch):
            eventually(lambda path=path: cluster.transport.command(["test", "-e", path]).returncode == 1)

    def test_completed_is_left_alone(self, cluster: SlurmCluster, reattachment: Reattachment) -> None:
        launch = Launch(cluster)
        job_id, _ = launch.submit()
        eventually(lambda: all_ended(cluster, [job_id]))
        own = LaunchKey("again", launch.key.origin_run_id).first_attempt(cluster.base())
        assert reattachment.find(own, others=Others([first_of(launch)])) == Known()


class TestWithdraw:
    """A cancellation, whatever the job is doing."""

    def test_not_yet_submitted(self, cluster: SlurmCluster) -> None:
        launch = Launch(cluster)
        assert Claims(cluster).withdraw(launch.directory).jobs == {}
        with pytest.raises(AttemptClosedError):
            launch.submit()

    def test_pending(self, cluster: SlurmCluster, sandbox: Sandbox) -> None:
        launch = Launch(cluster, hold=True)
        job_id, _ = launch.submit()
        assert Claims(cluster).withdraw(launch.directory).jobs == {job_id: 0}
        # Even if nobody could cancel it.
        sandbox.run(["scontrol", "release", job_id])
        eventually(lambda: all_ended(cluster, [job_id]))
        assert launch.runs() == []

    def test_running(self, cluster: SlurmCluster) -> None:
        launch = Launch(cluster)
        cluster.transport.run('echo "sleep 60" >>"$1/work/mark.sh"', (launch.directory.path,))
        job_id, _ = launch.submit()
        launch.wait_for_runs()
        assert Claims(cluster).withdraw(launch.directory).jobs == {job_id: 0}
        cluster.cancel([job_id])
        eventually(lambda: all_ended(cluster, [job_id]))

    def test_answer_lost(self, cluster: SlurmCluster, sandbox: Sandbox) -> None:
        """The job's id is known nowhere; its name is."""
        launch = Launch(cluster, hold=True)
        job_id, _ = launch.submit()
        sandbox.run(["sh", "-c", f"rm {launch.directory.claim(0)}/stdout {launch.directory.claim(0)}/status"])
        withdrawn = Claims(cluster).withdraw(launch.directory)
        assert (withdrawn.jobs, withdrawn.job_names) == ({}, (launch.directory.job_name(),))
        cluster.cancel_by_name(withdrawn.job_names)
        eventually(lambda: all_ended(cluster, [job_id]))


def test_a_live_job_keeps_its_run_s_directory_fresh(cluster: SlurmCluster) -> None:
    """`find -mtime +3` must not hit a run whose job has just ended."""
    launch = Launch(cluster)
    top = launch.directory.launch.rpartition("/")[0]
    job_id, _ = launch.submit()
    eventually(lambda: all_ended(cluster, [job_id]))
    age = time.time() - float(cluster.transport.command(["stat", "-c", "%Y", top]).text)
    assert age < 60
    cluster.transport.command(["touch", "-d", "4 days ago", top])
    cluster.touch(launch.directory)
    old = cluster.transport.command(["find", top, "-maxdepth", "0", "-mtime", "+3"])
    assert old.text == ""


def test_a_run_directory_is_removed_with_what_its_payload_has_locked(cluster: SlurmCluster) -> None:
    """As the user; root, as whom other tests run on this machine, is refused nothing."""
    launch = Launch(cluster)
    work = launch.directory.work
    made = cluster.transport.run(
        'mkdir -p "$1/locked/inner" && chmod 500 "$1/locked" && ! rmdir "$1/locked/inner"', (work,)
    )
    assert made.returncode == 0
    launch.directory.remove(cluster.transport)
    eventually(lambda: cluster.transport.command(["test", "-e", launch.directory.launch]).returncode == 1)
