"""What is taken over from another launch of the same work: a job that goes on, and no stranger with its number."""

from __future__ import annotations

import pytest
from tests.support.launches import KEY, claimed, created
from tests.support.slurm_programs import Slurm, queued

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import ResultLostError
from dagster_slurm.job.submission import Others, Reattachment
from dagster_slurm.run_directory import RunDirectory


def of_user(job_id: str, state: str, name: str, task: str = "N/A") -> str:
    return f"{job_id}|{job_id}|{task}|{state}|N/A|N/A|None|n1|{name}|\n"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], None),
        ([of_user("17", "RUNNING", KEY)], (0, 0, "17")),
        ([of_user("17", "PENDING", f"{KEY}.2.1")], (2, 1, "17")),
        ([of_user("17", "COMPLETED", KEY), of_user("18", "RUNNING", "stranger")], None),
        ([of_user("17", "RUNNING", KEY), of_user("19", "RUNNING", f"{KEY}.1.0")], (1, 0, "19")),
    ],
)
def test_a_job_whose_directory_was_removed(
    cluster: SlurmCluster, slurm: Slurm, entries: list[str], expected: tuple[int, int, str] | None
) -> None:
    """A second job was submitted beside it."""
    slurm.says("squeue", "".join(entries))
    known = Reattachment(cluster).find(RunDirectory(cluster.base(), "run", KEY), began_before=True)
    handles = [opened.handle for opened in known.open]
    assert [(each.directory.attempt, each.generation, each.job_id) for each in handles] == [expected] * bool(expected)
    assert known.following == (expected[0] + 1 if expected else 0)


def test_an_array_whose_directory_was_removed_is_not_followed(cluster: SlurmCluster, slurm: Slurm) -> None:
    """Which of its tasks has which partition, nobody knows any more."""
    slurm.says("squeue", of_user("17", "RUNNING", KEY, "3"))
    with pytest.raises(ResultLostError, match="Slurm array 17 does this piece of work") as caught:
        Reattachment(cluster).find(RunDirectory(cluster.base(), "run", KEY), began_before=True)
    assert "scancel 17" in str(caught.value.hint)


def test_slurm_is_not_asked_where_nobody_can_have_begun(cluster: SlurmCluster, slurm: Slurm) -> None:
    assert Reattachment(cluster).find(RunDirectory(cluster.base(), "run", KEY)).open == ()
    assert slurm.asked() == []


@pytest.mark.parametrize(
    ("entry", "is_adopted"),
    [
        (queued(), True),
        (queued(state="COMPLETED"), False),
        (queued(name="stranger"), False),
        ("", False),
    ],
)
def test_a_job_of_another_launch(cluster: SlurmCluster, slurm: Slurm, entry: str, is_adopted: bool) -> None:
    other = created(cluster)
    claimed(other)
    slurm.says("squeue", entry)
    mine = RunDirectory(cluster.base(), "another-run", KEY)
    known = Reattachment(cluster).find(mine, others=Others([other]))
    assert known.was_elsewhere is is_adopted
