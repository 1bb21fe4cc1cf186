"""What becomes of a try to submit of which it is not known whether it has a job."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.launches import KEY, claimed, created
from tests.support.slurm_programs import Slurm, queued

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.cluster.look import Ask, SlurmAnswers, look
from dagster_slurm.cluster.records import REVOKED
from dagster_slurm.errors import RemoteStorageError, SlurmOutputError, SlurmUnavailableError, TransportError
from dagster_slurm.job.submission import submit_once
from dagster_slurm.run_directory import JobHandle, RunDirectory

FULL = (
    "sbatch: error: Reached jobs per hour limit\nsbatch: error: Batch job submission failed: Job violates "
    "accounting/QOS policy (job submit limit, user's size and/or time limits)"
)
LOST = "sbatch: error: Socket timed out on send/recv operation"


def job_id(cluster: SlurmCluster, directory: RunDirectory, *, at_once: bool = True) -> str | None:
    seen = look(cluster, [directory], ask=Ask.JOBS)
    newest = seen.listing.newest(directory)
    assert newest
    return Claims(cluster).job_id(newest[1], seen.slurm if at_once else SlurmAnswers())


def gate(directory: RunDirectory) -> str:
    path = Path(directory.claim(0), "gate")
    return str(path.readlink()) if path.is_symlink() else ""


@pytest.mark.parametrize(
    ("claim", "in_queue", "expected", "owner"),
    [
        ({"job_id": "17"}, False, "17", ""),
        ({"job_id": "17", "gate": "17"}, False, "17", "17"),
        ({"job_id": "", "gate": "18"}, False, "18", "18"),
        ({"refused": "sbatch: error: invalid partition specified: x"}, False, None, ""),
        # It was taken back: a job that is there ends at its gate.
        ({"job_id": "17", "gate": REVOKED}, False, None, REVOKED),
        # Nobody knows: the queue tells, or the gate is taken.
        ({"refused": LOST}, True, "18", ""),
        ({"refused": LOST}, False, None, REVOKED),
        ({"job_id": ""}, True, "18", ""),
        ({"job_id": ""}, False, None, REVOKED),
        # An answer that names no job, or more than one.
        ({"job_id": "Your job was submitted"}, True, "18", ""),
        ({"job_id": "1000\n17"}, True, "18", ""),
        ({"job_id": "Your job was submitted"}, False, None, REVOKED),
        ({"job_id": "Submitted batch job 17\nThank you"}, False, "17", ""),
        ({"job_id": "17\nThank you"}, False, "17", ""),
    ],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["asked at the look", "asked afterwards"])
def test_the_job_of_a_try(
    cluster: SlurmCluster,
    slurm: Slurm,
    claim: dict[str, str],
    in_queue: bool,
    expected: str | None,
    owner: str,
    at_once: bool,
) -> None:
    directory = created(cluster)
    claimed(directory, **claim)
    slurm.says("squeue", queued("18", name=KEY) if in_queue else "")
    assert job_id(cluster, directory, at_once=at_once) == expected
    assert gate(directory) == owner
    if not owner and "refused" in claim and claim["refused"] == LOST:
        assert Claims(cluster).settle(directory, generation=0) == expected


def test_a_job_that_takes_the_gate_in_the_last_moment_is_the_one(cluster: SlurmCluster) -> None:
    directory = created(cluster)
    claimed(directory, job_id="")
    seen = look(cluster, [directory], ask=Ask.JOBS)
    Path(directory.claim(0), "gate").symlink_to("19")
    newest = seen.listing.newest(directory)
    assert newest
    assert Claims(cluster).job_id(newest[1], seen.slurm) == "19"
    assert Claims(cluster).settle(directory, generation=0) == "19"


def test_without_an_answer_of_squeue_nothing_is_settled(cluster: SlurmCluster, slurm: Slurm) -> None:
    directory = created(cluster)
    claimed(directory, job_id="")
    slurm.says("squeue", status=1, error="slurm_load_jobs error: Unable to contact slurm controller\n")
    for at_once in (True, False):
        with pytest.raises(SlurmUnavailableError):
            job_id(cluster, directory, at_once=at_once)
    with pytest.raises(SlurmUnavailableError):
        Claims(cluster).settle(directory, generation=0)
    assert gate(directory) == ""


def test_a_gate_that_cannot_be_taken(cluster: SlurmCluster) -> None:
    directory = created(cluster)
    Path(directory.path, "claim").rmdir()
    Path(directory.path, "claim").write_text("in the way")
    with pytest.raises((RemoteStorageError, TransportError)):
        Claims(cluster).settle(directory, generation=0)


@pytest.mark.parametrize(
    ("printed", "jobs", "is_named"),
    [
        ("17\n", {"17": 0}, False),
        ("17", {"17": 0}, False),
        ("Welcome to beast\nSubmitted batch job 17\nThank you\n", {"17": 0}, False),
        ("Your job was submitted\n", {}, True),
        ("1000\n17\n", {}, True),
        ("", {}, True),
    ],
)
def test_what_is_cancelled_after_an_answer_of_the_site_s_own(
    cluster: SlurmCluster, printed: str, jobs: dict[str, int], is_named: bool
) -> None:
    """A termination died in a ValueError, and the job ran on."""
    directory = created(cluster)
    (claimed(directory) / "stdout").write_text(printed)
    claimed(directory, 1, job_id="", refused=LOST)
    claimed(directory, 2, gate="19")
    withdrawn = Claims(cluster).withdraw(directory)
    assert withdrawn.jobs == {**jobs, "19": 2}
    assert withdrawn.job_names == tuple(directory.job_name(each) for each in ([0] if is_named else []) + [1])
    assert gate(directory) == REVOKED


def test_an_answer_of_the_site_s_own_loses_no_job(cluster: SlurmCluster, slurm: Slurm) -> None:
    """The run failed, and its job ran on, untracked."""
    directory = created(cluster)
    slurm.says("sbatch", "slurm 22.05.8\n")
    slurm.says("squeue", queued("18", name=KEY))
    assert submit_once(Claims(cluster), directory) == JobHandle(directory, "18", 0)


def test_what_was_refused_a_hundred_times_is_not_gone_through_again(
    cluster: SlurmCluster, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that throttles refuses for an hour; each try left a claim, and the next walked past all of them."""
    directory = created(cluster)
    for generation in range(100):
        claimed(directory, generation, job_id="", refused=FULL)
    slurm.says("sbatch", "18\n")
    trips: list[str] = []
    run = cluster.transport.run
    monkeypatch.setattr(
        cluster.transport, "run", lambda script, *args, **more: trips.append(script) or run(script, *args, **more)
    )
    assert submit_once(Claims(cluster), directory) == JobHandle(directory, "18", 100)
    assert len(trips) <= 5


def test_an_answer_without_a_job_is_not_asked_for_again_and_again(cluster: SlurmCluster, slurm: Slurm) -> None:
    directory = created(cluster)
    slurm.says("sbatch", "No job today\n")
    with pytest.raises(SlurmOutputError, match="No job today") as caught:
        submit_once(Claims(cluster), directory)
    assert "ends at its gate" in str(caught.value)
    assert gate(directory) == REVOKED
