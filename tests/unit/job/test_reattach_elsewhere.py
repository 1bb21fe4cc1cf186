"""What is taken over from another launch of the same work: a job that goes on, and no stranger with its number."""

from __future__ import annotations

import pytest
from tests.support.launches import KEY, claimed, created
from tests.support.slurm_programs import Slurm, queued

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.job.reattach import Others, Reattachment
from dagster_slurm.run_directory import RunDirectory


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
