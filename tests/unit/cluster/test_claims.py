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
from dagster_slurm.errors import RemoteStorageError, SlurmUnavailableError, TransportError
from dagster_slurm.run_directory import RunDirectory

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
