"""The GPUs of what a session's step starts with srun (session/gpus.sh): a task prolog, by itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import dagster_slurm.session

SCRIPT = Path(dagster_slurm.session.__file__).with_name("gpus.sh")


def printed(**variables: str) -> dict[str, str]:
    done = subprocess.run(
        ["sh", SCRIPT], env={"PATH": os.environ["PATH"], **variables}, capture_output=True, text=True, check=True
    )
    pairs = (line.removeprefix("export ").split("=", 1) for line in done.stdout.splitlines())
    return dict(pairs)


@pytest.mark.parametrize(
    ("own", "numbers", "devices", "kept"),
    [
        ("1", "0,1", "0,1", "1"),
        ("0,2", "0,1,2,3", "0,1,2,3", "0,2"),
        # Devices are counted from 0 within the job's control group.
        ("7", "6,7", "0,1", "1"),
        ("3", "3", "GPU-8a2f", "GPU-8a2f"),
        ("1", "10,1", "0,1", "1"),
    ],
)
def test_those_of_the_step_are_kept(own: str, numbers: str, devices: str, kept: str) -> None:
    told = printed(DAGSTER_SLURM_GPUS=own, SLURM_STEP_GPUS=numbers, CUDA_VISIBLE_DEVICES=devices)
    assert told == {
        "CUDA_VISIBLE_DEVICES": kept,
        "SLURM_STEP_GPUS": own,
        "SLURM_GPUS_ON_NODE": str(len(own.split(","))),
    }
