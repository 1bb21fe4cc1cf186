"""What is being submitted at the moment at which it is looked for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.launches import KEY, claimed, created
from tests.support.slurm_programs import Slurm, queued

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.look import Ask
from dagster_slurm.job import submission
from dagster_slurm.job.submission import look_for_jobs
from dagster_slurm.run_directory import RunDirectory


def looks(
    cluster: SlurmCluster,
    directory: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    then: Callable[[], None] = lambda: None,
) -> list[str]:
    """The job that sbatch has named, look by look, until one is an answer; what happens after the first of them."""
    found: list[str] = []
    once = submission.look

    def look(*args: object, **options: object) -> object:
        seen = once(*args, **options)  # type: ignore[arg-type]
        newest = seen.listing.newest(directory)
        found.append(newest[1].claims[-1].job_id if newest and newest[1].claims else "")
        if len(found) == 1:
            then()
        return seen

    monkeypatch.setattr(submission, "look", look)
    look_for_jobs(cluster, [directory], ask=Ask.JOBS)
    return found


def test_its_answer_is_waited_for(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = created(cluster)
    claim = claimed(directory, job_id="")

    def answer() -> None:
        (claim / "stdout").write_text("17\n")
        (claim / "status").write_text("0\n")

    assert looks(cluster, directory, monkeypatch, answer) == ["", "17"]


def test_one_that_nobody_answers_any_more_is_not_waited_for(
    cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = created(cluster)
    claim = claimed(directory, job_id="")
    os.utime(claim, (time.time() - 60,) * 2)
    assert looks(cluster, directory, monkeypatch) == [""]


def test_nor_one_of_which_the_queue_knows(cluster: SlurmCluster, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = created(cluster)
    claimed(directory, job_id="")
    slurm.says("squeue", queued(name=KEY))
    assert looks(cluster, directory, monkeypatch) == [""]


@pytest.mark.parametrize("what", ["nothing", "made", "refused", "revoked", "closed"])
def test_nor_what_is_no_submission(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    directory = created(cluster, "other") if what == "nothing" else created(cluster)
    if what in ("refused", "revoked", "closed"):
        refused = "sbatch: error: invalid partition" if what == "refused" else ""
        claimed(directory, job_id="", refused=refused, gate="revoked" if what == "revoked" else "")
    if what == "closed":
        Path(directory.claim(1)).symlink_to("closed")
    launch = RunDirectory(cluster.base(), "none", KEY) if what == "nothing" else directory
    assert looks(cluster, launch, monkeypatch) == [""]


def test_nor_longer_than_the_patience(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_ANSWER_SECONDS", 1.5)
    directory = created(cluster)
    claim = claimed(directory, job_id="")
    # By a clock of the storage that is ahead.
    os.utime(claim, (time.time() + 3600,) * 2)
    began = time.monotonic()
    found = looks(cluster, directory, monkeypatch)
    assert time.monotonic() - began >= 1.5
    # Fewer where a look takes its time.
    assert found == ["", "", ""][: len(found)]
