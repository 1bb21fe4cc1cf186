"""batch.sh without Slurm: where no control group names the job's processes, and bash has no clock of its own."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

import dagster_slurm.job
from dagster_slurm.cluster.status_file import EndMark, StartMark, parse_marks
from dagster_slurm.job.batch_script import batch_script
from dagster_slurm.process_identity import ProcessIdentity
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.request import merge

# The script ends what has this id, on the whole machine: no other session of these tests has the same.
JOB_ID = f"4{os.getpid():07d}"
LISTED_ID = "4711047"
BATCH_SH = Path(dagster_slurm.job.__file__).with_name("batch.sh")
BASH_4 = "unset EPOCHREALTIME\n"


def run_job(tmp_path: Path, payload: str, *, before: str = "") -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run the batch script of a job as slurmstepd would; `payload` is bash, in the directory for its work."""
    directory = RunDirectory(str(tmp_path), "run", "it's")
    root = Path(directory.path)
    for name in ("work", "log", "claim/0"):
        (root / name).mkdir(parents=True)
    for name in ("status", "stdout.0", "stderr.0", "messages.0"):
        (root / "log" / name).touch()
    launch = f'{before}launch() {{ cd "$run_directory/work" || exit 74; {payload}\n}}'
    script = tmp_path / "job.sh"
    script.write_text(batch_script(merge(), directory=directory, launch=launch))
    environment = {**os.environ, "SLURM_JOB_ID": JOB_ID, "SLURMD_NODENAME": "n1"}
    return subprocess.run(
        ["bash", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    ), root


@pytest.mark.parametrize("before", ["", BASH_4], ids=["bash 5", "bash 4"])
def test_marks_with_times_and_sizes(tmp_path: Path, before: str) -> None:
    began = time.time()
    done, root = run_job(tmp_path, "echo out; echo error >&2; exit 3", before=before)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    (start, end), _ = parse_marks((root / "log/status").read_text())
    assert isinstance(start, StartMark) and isinstance(end, EndMark)
    assert (start.node, end.job_id, end.exit_code) == ("n1", JOB_ID, 3)
    assert began <= start.at_epoch_seconds <= end.at_epoch_seconds <= time.time()
    assert end.bytes_of == {"stdout": 4, "stderr": 6, "messages": 0}


def test_a_log_that_the_payload_removed_counts_nothing(tmp_path: Path) -> None:
    _, root = run_job(tmp_path, "echo out; rm ../log/stderr.0 ../log/messages.0")
    end = parse_marks((root / "log/status").read_text())[0][-1]
    assert isinstance(end, EndMark)
    assert end.bytes_of == {"stdout": 4, "stderr": 0, "messages": 0}


def test_what_a_payload_leaves_behind_is_ended(tmp_path: Path) -> None:
    _, root = run_job(tmp_path, "for _ in 1 2 3; do setsid sleep 300 & echo $! >>pids; done; sleep 0.3")
    pids = (root / "work/pids").read_text().split()
    assert len(pids) == 3
    assert not [pid for pid in pids if ProcessIdentity.of(int(pid))]


def test_what_is_not_of_the_job_lives_on(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "300"], env={**os.environ, "SLURM_JOB_ID": JOB_ID + "1"}) as other:
        try:
            done, _ = run_job(tmp_path, "true")
            assert (done.returncode, other.poll()) == (0, None)
        finally:
            other.kill()


OF_VERSION_1 = "9:name=systemd:/\n6:freezer:/slurm_n1/uid_0/job_4711047/step_batch\n0::/\n"
OF_VERSION_2 = "0::/system.slice/slurmstepd.scope/{}/step_batch/user/task_0\n"
SLUID = "s4Y9M8HZ1EZC00"


@pytest.mark.parametrize(
    ("listed", "sluid", "found"),
    [
        (OF_VERSION_1, None, "freezer/slurm_n1/uid_0/job_4711047/step_batch"),
        (OF_VERSION_1, SLUID, "freezer/slurm_n1/uid_0/job_4711047/step_batch"),
        (OF_VERSION_1.replace(LISTED_ID, LISTED_ID + "1"), None, None),
        (
            OF_VERSION_2.format(f"job_{LISTED_ID}"),
            None,
            f"system.slice/slurmstepd.scope/job_{LISTED_ID}/step_batch/user/task_0",
        ),
        (OF_VERSION_2.format(SLUID), SLUID, f"system.slice/slurmstepd.scope/{SLUID}/step_batch/user/task_0"),
        (OF_VERSION_2.format(SLUID + "1"), SLUID, None),
        (OF_VERSION_2.format(SLUID), None, None),
        ("0::/user.slice\n", None, None),
    ],
)
def test_the_control_group_is_that_of_the_job(
    tmp_path: Path, listed: str, sluid: str | None, found: str | None
) -> None:
    text = BATCH_SH.read_text(encoding="utf-8")
    function = text[text.index("find_group() {") : text.index("}\n", text.index("find_group() {")) + 2]
    # No test can be in a group of its choosing: the function reads files of the test's in place of the kernel's.
    function = function.replace("/proc/self/cgroup", str(tmp_path / "cgroup")).replace("/sys/fs/cgroup", str(tmp_path))
    (tmp_path / "cgroup").write_text(listed)
    for line in listed.splitlines():
        controllers, path = line.split(":", 2)[1:]
        (tmp_path / controllers / path[1:]).mkdir(parents=True, exist_ok=True)
        (tmp_path / controllers / path[1:] / "cgroup.procs").touch()
    environment = {**os.environ, "SLURM_JOB_ID": LISTED_ID, **({"SLURM_JOB_SLUID": sluid} if sluid else {})}
    argv = ["bash", "-c", f'{function}find_group\nprintf %s "$group"']
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert os.path.normpath(done.stdout or ".") == (f"{tmp_path}/{found}/cgroup.procs" if found else ".")
