"""Which arrays a call has already, found in one round trip."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.launches import claimed, created
from tests.support.slurm_programs import Slurm, queued

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.description import Description
from dagster_slurm.job import submission
from dagster_slurm.job.handle import LaunchKey
from dagster_slurm.launchers import Payload
from dagster_slurm.pipes import arrays as arrays_module
from dagster_slurm.pipes.arrays import CallArrays
from dagster_slurm.pipes.launch_key import PieceOfWork
from dagster_slurm.work.spec import WorkSpec


@pytest.fixture
def arrays(cluster: SlurmCluster) -> CallArrays:
    # What of a step is looked at when nothing is submitted.
    step: Any = SimpleNamespace(pipes=SimpleNamespace(contexts=lambda extras: None))
    return CallArrays(step, cluster, PieceOfWork(LaunchKey("run", "step")), WorkSpec.of(Payload("x", "bash", None)))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many launches each look was about."""
    found: list[int] = []
    once = submission.look

    def look(cluster: Any, launches: Any, **options: Any) -> Any:
        found.append(len(launches))
        return once(cluster, launches, **options)

    monkeypatch.setattr(submission, "look", look)
    return found


def made(cluster: SlurmCluster, arrays: CallArrays, jobs: list[str | None]) -> None:
    """Arrays of a call, in their order: with a job, closed (empty), or made and not submitted (None)."""
    for number, (launch, job_id) in enumerate(zip(arrays.launches(len(jobs)), jobs, strict=True)):
        directory = created(cluster, launch.run, launch.key, description=Description(elements=(f"p{number}", "q")))
        if job_id is not None:
            claimed(directory, job_id=job_id or "9")
        if job_id == "":
            Path(directory.claim(1)).symlink_to("closed")


@pytest.mark.parametrize(("at_once", "expected"), [(32, 1), (2, 3), (1, 6)])
def test_open_ones(
    cluster: SlurmCluster,
    slurm: Slurm,
    arrays: CallArrays,
    looks: list[int],
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    expected: int,
) -> None:
    monkeypatch.setattr(arrays_module, "_ARRAYS_AT_ONCE", at_once)
    made(cluster, arrays, ["17", "", None, "18", "19"])
    known = arrays.known()
    assert [(each.handle.job_id, each.partitions[0]) for each in known.open] == [
        ("17", "p0"),
        ("18", "p3"),
        ("19", "p4"),
    ]
    assert (known.following, looks) == (5, [at_once] * expected)
    # What was never submitted is closed, and Slurm need not be asked about ids that are known.
    assert Path(arrays.launches(3)[2].claim(0)).readlink() == Path("closed")
    assert slurm.asked() == []


def test_one_whose_id_nobody_was_told(
    cluster: SlurmCluster, slurm: Slurm, arrays: CallArrays, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_ANSWER_SECONDS", 0.0)
    made(cluster, arrays, ["17"])
    second = arrays.launches(2)[1]
    directory = created(cluster, second.run, second.key)
    claimed(directory, job_id="")
    slurm.says("squeue", queued("18", name=directory.job_name(0)))
    assert [each.handle.job_id for each in arrays.known().open] == ["17", "18"]
    assert slurm.asked() == [f"squeue --name={directory.job_name(0)}"]


def test_none(arrays: CallArrays, looks: list[int], slurm: Slurm) -> None:
    known = arrays.known()
    assert (known.open, known.following, len(looks), slurm.asked()) == ((), 0, 1, [])
