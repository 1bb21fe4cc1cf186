"""samples.sh: what a job uses as time goes on, by files in place of the kernel's, and by stand-ins for GPUs' tools."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from tests.support import batch_script
from tests.support.waiting import eventually

from dagster_slurm.slurm.efficiency import UsageSample, parse_samples
from dagster_slurm.transport.shell import shell_file

JOB_ID = "4711048"
MIB = 1 << 20
SCRIPTS = "\n".join(shell_file("dagster_slurm.job", name) for name in ("figures.sh", "samples.sh"))
GROUP = f"system.slice/slurmstepd.scope/job_{JOB_ID}"
KEPT = "held=0 next=0 unwritten=''"
# Time is the test's.
CLOCK = "find_age() { age=$clock; }\n"


def run(root: Path, calls: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What `calls` do in a job whose control group is below `root`, and whose logs are in `root`."""
    root.mkdir(exist_ok=True)
    (root / "list").write_text(f"0::/{GROUP}/step_batch/user/task_0\n")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "CUDA_", "ROCR_"))}
    begin = "groups_root=$1 groups_list=$1/list log=$1 restart=0 started=1000.5"
    argv = ["bash", "-c", f"{SCRIPTS}\n{begin}\nfind_group\n{KEPT}\n{calls}\ntrue", "bash", str(root)]
    env = {**own, "SLURM_JOB_ID": JOB_ID, **variables}
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=True, timeout=60)


def lay(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def stand_in(directory: Path, name: str, text: str) -> dict[str, str]:
    """A program of that name, and the PATH that finds it: no machine of ours has a GPU."""
    path = lay(directory, name, f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


def cpu_stat(root: Path, seconds: float) -> str:
    return f"printf 'usage_usec {round(seconds * 1e6)}\\n' >'{root}/{GROUP}/cpu.stat'\n"


def test_lines_have_the_most_memory_since_the_one_before(tmp_path: Path) -> None:
    lay(tmp_path, f"{GROUP}/cpu.stat", "")
    calls = CLOCK
    for clock, seconds, mib in [
        (2, 0.1, 10),
        (7, 0.5, 20),
        (17, 1.2, 30),
        (37, 3.5, 5),
        (400, 9, 80),
        (410, 9, 500),
        (420, 9, 1),
    ]:
        calls += f"{cpu_stat(tmp_path, seconds)}clock={clock}; note_use {mib * MIB}\n"
    assert run(tmp_path, calls).stderr == ""
    text = (tmp_path / "usage.0").read_text()
    # One of 41 s would come too soon; what it has seen is not lost.
    assert text == "2:10:10\n7:50:20\n17:120:30\n37:350:5\n400:900:80\n420:900:500\n"


@pytest.mark.parametrize(
    ("calls", "expected"),
    [("clock=30; note_use ''", None), (f"clock=30; note_use {MIB}", "30:-:1\n"), (f"clock=19; note_use {MIB}", None)],
    ids=["nothing is known", "only memory is", "a short job"],
)
def test_what_is_not_known_is_left_out(tmp_path: Path, calls: str, expected: str | None) -> None:
    run(tmp_path, f"{CLOCK}job_group=/nowhere cpu_group=''; {calls}")
    path = tmp_path / "usage.0"
    assert (path.read_text() if path.exists() else None) == expected


def test_of_a_week_there_are_some_kibibytes(tmp_path: Path) -> None:
    """With every figure as long as they come, and a look each ten seconds at least."""
    looks = f"""{CLOCK}read_cpu() {{ number=$((clock * 12800000)); }}; read_gpus() {{ gpus=100:655360; }}
    for clock in 2 7 17 37 87 187; do note_use {1 << 40}; done
    while [ "$clock" -lt 6048000 ]; do clock=$((clock > next ? clock + 100 : next)); note_use {1 << 40}; done"""
    run(tmp_path, looks)
    text = (tmp_path / "usage.0").read_text()
    samples = parse_samples(text.strip().replace("\n", ","))
    assert 150 <= len(samples) == text.count("\n") <= 250
    assert len(text) <= 10_000
    assert samples[-1].at_seconds >= 0.95 * 604_800


def test_where_nobody_counts_cpu_time_the_processes_tell(tmp_path: Path) -> None:
    busy = subprocess.Popen(["bash", "-c", "while :; do :; done"])
    try:
        lay(tmp_path, f"{GROUP}/step_batch/cgroup.procs", f"{busy.pid}\n999999999\n0\n")
        before = eventually(lambda: cpu_microseconds(busy.pid), "time on a processor")
        done = run(tmp_path, "cpu_group=''; read_cpu; echo $number")
        after = cpu_microseconds(busy.pid)
    finally:
        busy.kill()
        busy.wait()
    assert before <= int(done.stdout) <= after
    assert done.stderr == ""


def cpu_microseconds(pid: int) -> int:
    """What a process has used so far, as proc(5) has it in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) * 1_000_000 // os.sysconf("SC_CLK_TCK")


def test_the_age_is_that_of_the_job(tmp_path: Path) -> None:
    began = time.time() - 3.25
    done = run(
        tmp_path, f"started={began:.6f}; find_age; echo $age; unset EPOCHREALTIME; SECONDS=3; find_age; echo $age"
    )
    exact, whole = map(int, done.stdout.split())
    assert 32 <= exact <= 82
    assert whole in (30, 40)


ROCM = """cat <<'END'
WARNING: AMD GPU device(s) is/are in a low-power state. Check power control/runtime_status

device,GPU use (%),GFX Activity,VRAM Total Memory (B),VRAM Total Used Memory (B)
card2,40,203885505,68702699520,1073741824
card3,61,203885505,68702699520,2147483648
END
"""
QUERY = "--query-gpu=utilization.gpu,memory.used --format=csv,noheader,nounits"


@pytest.mark.parametrize(
    ("tool", "prints", "variables", "asked", "expected"),
    [
        ("nvidia-smi", "echo '45, 1234'", {"CUDA_VISIBLE_DEVICES": "0"}, f"--id=0 {QUERY}", "45:1234"),
        (
            "nvidia-smi",
            "printf '%s\\n' '0, 10' '91, 40000'",
            # Held to its devices, they are counted from 0.
            {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_GPUS": "2,3"},
            f"--id=0,1 {QUERY}",
            "45:40010",
        ),
        # Part of one, which tells of no use.
        ("nvidia-smi", "echo '[N/A], 512'", {"CUDA_VISIBLE_DEVICES": "MIG-1"}, f"--id=MIG-1 {QUERY}", "-:512"),
        ("nvidia-smi", "echo 'No devices were found'; exit 6", {"SLURM_JOB_GPUS": "1"}, f"--id=1 {QUERY}", ""),
        (
            "rocm-smi",
            ROCM,
            {"ROCR_VISIBLE_DEVICES": "0,1", "SLURM_JOB_GPUS": "2,3"},
            "-d 2 3 --showuse --showmeminfo vram --csv",
            "50:3072",
        ),
        (
            "rocm-smi",
            ROCM.replace("GPU use", "Something else"),
            {"ROCR_VISIBLE_DEVICES": "2,3"},
            "-d 2 3 --showuse --showmeminfo vram --csv",
            "-:3072",
        ),
        ("rocm-smi", "echo ERROR: no driver >&2; exit 2", {"SLURM_JOB_GPUS": "0"}, None, ""),
    ],
)
def test_the_gpus_of_the_job_alone(
    tmp_path: Path, tool: str, prints: str, variables: dict[str, str], asked: str | None, expected: str
) -> None:
    """By stand-ins that print what the tools do: `nvidia-smi` since its release 319, `rocm-smi` since ROCm 4."""
    env = stand_in(tmp_path / "bin", tool, f'echo "$*" >"{tmp_path}/asked"\n{prints}\n')
    done = run(tmp_path, "find_gpu_tool; read_gpus 2>/dev/null; echo $gpus", SLURM_GPUS_ON_NODE="2", **env, **variables)
    assert done.stdout.strip() == expected
    assert asked is None or (tmp_path / "asked").read_text().strip() == asked


@pytest.mark.parametrize("variables", [{}, {"SLURM_GPUS_ON_NODE": "0"}, {"SLURM_GPUS_ON_NODE": "1"}], ids=str)
def test_without_gpus_of_its_own_no_tool_is_started(tmp_path: Path, variables: dict[str, str]) -> None:
    env = stand_in(tmp_path / "bin", "nvidia-smi", f"touch '{tmp_path}/asked'; echo '1, 1'")
    run(tmp_path, f"{CLOCK}find_gpu_tool; clock=30; note_use {MIB}", **env, **variables)
    assert not (tmp_path / "asked").exists()
    assert (tmp_path / "usage.0").read_text() == "30:-:1\n"


def test_a_tool_that_hangs_is_ended_and_not_asked_again(tmp_path: Path) -> None:
    env = stand_in(tmp_path / "bin", "nvidia-smi", f"echo x >>'{tmp_path}/asked'; trap '' TERM; exec sleep 300")
    variables = {**env, "SLURM_GPUS_ON_NODE": "1", "CUDA_VISIBLE_DEVICES": "0"}
    calls = f"{CLOCK}find_gpu_tool\nfor clock in 30 400 900; do note_use {MIB}; done"
    began = time.monotonic()
    run(tmp_path, calls, **variables)
    assert time.monotonic() - began < 30
    assert (tmp_path / "asked").read_text() == "x\n"
    assert (tmp_path / "usage.0").read_text() == "30:-:1\n400:-:1\n900:-:1\n"


def test_the_end_line_takes_them_along(tmp_path: Path) -> None:
    lay(tmp_path, "usage.0", "20:10:5\n37:350:6:90:100\n")
    done = run(tmp_path, "figures=(killed=0); tell_use; printf '%s\\n' \"${figures[@]}\"")
    assert done.stdout == "killed=0\nusage=20:10:5,37:350:6:90:100\n"
    assert run(tmp_path, "restart=1 figures=(); tell_use; echo ${#figures[@]}").stdout == "0\n"
    assert parse_samples(done.stdout.split("usage=")[1].strip()) == (
        UsageSample(2.0, 0.1, 5),
        UsageSample(3.7, 3.5, 6, 90, 100),
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("echo '80, 1000'; echo '40, 3000'", (60, 4000)), ("trap '' TERM; exec sleep 300", (None, None))],
    ids=["answers", "hangs"],
)
def test_a_whole_batch_script_beside_a_stand_in(tmp_path: Path, answer: str, expected: tuple[int, int]) -> None:
    """Whose tool hangs does not wait for it: neither as it goes on, nor at its end."""
    script, root = batch_script.prepared(tmp_path, "sleep 5")
    kernel = tmp_path / "kernel"
    group = f"system.slice/slurmstepd.scope/job_{batch_script.JOB_ID}"
    lay(kernel, "list", f"0::/{group}/step_batch\n")
    lay(kernel, f"{group}/memory.stat", f"anon {7 * MIB}\nfile 0\nshmem 0\n")
    lay(kernel, f"{group}/cpu.stat", "usage_usec 2500000\n")
    of_kernel = "groups_root=/sys/fs/cgroup groups_list=/proc/self/cgroup"
    text = script.read_text()
    assert of_kernel in text
    script.write_text(text.replace(of_kernel, f"groups_root='{kernel}' groups_list='{kernel}/list'"))
    gpus = {"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_NUM_NODES": "1"}
    variables = {**stand_in(tmp_path / "bin", "nvidia-smi", answer), **gpus}
    began = time.monotonic()
    done = subprocess.run(
        ["bash", str(script)],
        env=batch_script.in_slurm(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 25
    samples = batch_script.end_of(root).figures.samples
    assert {(each.gpu_pct, each.gpu_memory_mib) for each in samples if each.at_seconds >= 2} in ({expected}, set())
    if expected != (None, None):
        assert [(each.cpu_seconds, each.memory_mib) for each in samples][-1] == (2.5, 7)
