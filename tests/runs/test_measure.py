"""The way of one run through the package, measured: a figure that grows fails, one that falls is written down here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_slurm.sandbox import Sandbox

pytestmark = [pytest.mark.cluster, pytest.mark.process]
ROOT = Path(__file__).parents[2]
# On the step's own thread, but for functions. Those of other threads vary with what else the machine does.
SUBMITTED = {"files": 62, "stations": 250, "functions": 440}
ENDED = {"files": 71, "stations": 400, "functions": 700}
# But for looks at the files of the job, which are as many as it runs long.
ROUND_TRIPS = {"facts.sh": 1, "attempt.sh": 1, "put_tree.sh": 1, "submit.sh": 1}


def test_of_one_run(sandbox: Sandbox, tmp_path: Path) -> None:
    """Of one that is watched for three seconds, in a process that has done nothing else."""
    argv = [sys.executable, "-m", "tests.support.traced", f"~/test-runs/{tmp_path.name}"]
    environment = {**os.environ, **sandbox.env()}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for when, most in (("submitted", SUBMITTED), ("ended", ENDED)):
        assert {name: value for name, value in found[when].items() if value > most[name]} == {}, when
    asked = found["asked"]
    assert {name: asked.pop(name, 0) for name in ROUND_TRIPS} == ROUND_TRIPS
    # sbatch --test-only, and squeue once or twice.
    assert asked.pop("poll.sh") <= 40
    assert asked.pop("env") <= 4
    assert asked == {}
