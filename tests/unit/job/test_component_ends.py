"""The end of a component: its own line's, whatever Slurm says of the heterogeneous job."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import dagster_slurm.job
from dagster_slurm.cluster.description import Description
from dagster_slurm.cluster.judge import Action, Patience, judge
from dagster_slurm.job.backoff import Pace
from dagster_slurm.job.events import Subscription
from dagster_slurm.job.watched import WatchedJob
from dagster_slurm.run_directory import JobHandle, RunDirectory
from dagster_slurm.slurm.states import JobState

WHOLE = JobHandle(RunDirectory("/base", "run", "key"), "12", 0, 3)


def watched(line: str) -> WatchedJob:
    paces = (Pace(1.0, 2.0) for _ in range(3))
    job = WatchedJob(WHOLE.of(1), Subscription(), *paces)
    job.take({"run/key/0/elements/1/log/status": f"start 12+1 0 1.0 n2 n[2-3]\n{line}\n".encode()})
    # The others go on.
    job.queue = JobState.RUNNING
    return job


@pytest.mark.parametrize(
    ("line", "action", "state"),
    [
        ("end 12+1 0 0 2.0 0 0 0 nodes=2 killed=0", Action.FINISH, JobState.COMPLETED),
        ("end 12+1 0 3 2.0 0 0 0 nodes=2 killed=0", Action.FINISH, JobState.FAILED),
        ("end 12+1 0 137 2.0 0 0 0 nodes=2 killed=1", Action.FINISH, JobState.OUT_OF_MEMORY),
        # Slurm has ended it, and knows why.
        ("end 12+1 0 143 2.0 0 0 0 told=TERM nodes=2 killed=0", Action.ASK_QUEUE, None),
        # Another's line.
        ("end 12+2 0 3 2.0 0 0 0 nodes=1 killed=0", Action.WAIT, None),
    ],
)
def test_what_follows_from_an_end_line_while_the_others_go_on(
    line: str, action: Action, state: JobState | None
) -> None:
    verdict = judge(watched(line).witnesses(10.0), Patience())
    assert (verdict.action, verdict.state) == (action, state)


def test_the_description_of_a_hetjob_is_read_as_it_was_written() -> None:
    told = Description(elements=("a", "b"), is_hetjob=True)
    assert Description.from_json(told.to_json()) == told
    assert (told.components, Description(elements=("a", "b")).components) == (2, 0)


def test_srun_of_a_component_is_slurms_own_with_its_group(tmp_path: Path) -> None:
    """A stand-in for srun, which prints what it is given."""
    own, slurm = tmp_path / "own", tmp_path / "slurm"
    for directory in (own, slurm):
        directory.mkdir()
    source = Path(dagster_slurm.job.__file__).with_name("part_srun.sh")
    (own / "srun").write_text(source.read_text())
    (slurm / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@" "$PATH"\n')
    for path in (own / "srun", slurm / "srun"):
        path.chmod(0o700)
    variables = {"PATH": f"{own}:{slurm}:/usr/bin:/bin", "DAGSTER_SLURM_HET_GROUP": "1"}
    done = subprocess.run(
        ["srun", "--ntasks=2", "a b"],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
        executable=own / "srun",
    )
    # As the PATH would find it.
    assert done.stdout.splitlines() == ["--het-group=1", "--ntasks=2", "a b", f"{slurm}:/usr/bin:/bin"]


@pytest.mark.parametrize(
    ("gpus", "more"),
    [
        ({}, []),
        ({"SLURM_JOB_GPUS": "0,1"}, ["--gres=none"]),
        ({"SLURM_JOB_GPUS": "0,1", "SLURM_STEP_GPUS": "1"}, ["--task-prolog=WORK/gpus.sh"]),
        # All those of its nodes are its own.
        ({"SLURM_JOB_GPUS": "0,1", "SLURM_STEP_GPUS": "0,1", "SLURM_JOB_NUM_NODES": "2"}, []),
    ],
)
def test_srun_of_a_step_is_slurms_own_beside_it(tmp_path: Path, gpus: dict[str, str], more: list[str]) -> None:
    """A stand-in for srun, which prints what it is given."""
    own, slurm = tmp_path / "work/bin", tmp_path / "slurm"
    for directory in (own, slurm):
        directory.mkdir(parents=True)
    source = Path(dagster_slurm.job.__file__).with_name("part_srun.sh")
    (own / "srun").write_text(source.read_text())
    (slurm / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    for path in (own / "srun", slurm / "srun"):
        path.chmod(0o700)
    variables = {"PATH": f"{slurm}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1", **gpus}
    done = subprocess.run([own / "srun", "true"], env=variables, capture_output=True, text=True, check=True)
    asked = [each.replace("WORK", str(own.parent)) for each in more]
    assert done.stdout.splitlines() == ["--overlap", "--nodelist=n1", *asked, "true"]
