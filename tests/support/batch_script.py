"""Batch scripts without Slurm: run as slurmstepd would."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dagster_slurm.cluster.description import EndMark, parse_marks
from dagster_slurm.job.batch_script import batch_script
from dagster_slurm.launchers import Hook, LaunchPlan, launch_script
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.request import merge

# The script ends what has this id, on the whole machine: no other session of these tests has the same.
JOB_ID = f"4{os.getpid():07d}"


def prepared(tmp_path: Path, payload: str, *hooks: Hook, before: str = "", status: str = "") -> tuple[Path, Path]:
    """The batch script of a job, and its run directory; `payload` is bash, in the directory for its work."""
    directory = RunDirectory(str(tmp_path), "run", "it's")
    root = Path(directory.path)
    for name in ("work", "log", "claim/0"):
        (root / name).mkdir(parents=True)
    for name in ("status", "stdout.0", "stderr.0", "messages.0"):
        (root / "log" / name).touch()
    (root / "log/messages").symlink_to("messages.0")
    (root / "log/status").write_text(status)
    (root / "env.sh").touch()
    launch = launch_script(LaunchPlan((), ("bash", "-c", payload), hooks))
    script = tmp_path / "job.sh"
    script.write_text(batch_script(merge(), directory=directory, launch=f"{before}{launch}"))
    return script, root


def in_slurm(**variables: str) -> dict[str, str]:
    """The environment that slurmstepd gives it."""
    return {**os.environ, "SLURM_JOB_ID": JOB_ID, "SLURMD_NODENAME": "n1", **variables}


def run_job(
    tmp_path: Path, payload: str, *hooks: Hook, before: str = "", status: str = "", **variables: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run it to its end; what Slurm sees of it, and its run directory."""
    script, root = prepared(tmp_path, payload, *hooks, before=before, status=status)
    argv = ["bash", str(script)]
    done = subprocess.run(argv, env=in_slurm(**variables), capture_output=True, text=True, timeout=60, check=False)
    return done, root


def end_of(root: Path) -> EndMark:
    """Its end line, which is the last."""
    mark = parse_marks((root / "log/status").read_text())[0][-1]
    assert isinstance(mark, EndMark)
    return mark
