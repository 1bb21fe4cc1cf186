"""figures.sh: what a job has used, by the files of control groups as the kernel and Slurm lay them out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.support.batch_script import end_of, run_job

from dagster_slurm.slurm.efficiency import Figures
from dagster_slurm.transport.shell import shell_file

JOB_ID = "4711047"
SLUID = "s4Y9M8HZ1EZC00"
FIGURES = shell_file("dagster_slurm.job", "figures.sh")
MIB = 1 << 20

OF_VERSION_1 = "9:name=systemd:/\n6:freezer:/slurm_n1/uid_0/job_4711047/step_batch\n0::/\n"
OF_VERSION_2 = "0::/system.slice/slurmstepd.scope/{}/step_batch/user/task_0\n"


def run(root: Path, listed: str, calls: str, *, sluid: str | None = None, **variables: str) -> str:
    """What `calls` print, in a job whose control groups are these."""
    (root / "list").write_text(listed)
    slurm = {"SLURM_JOB_ID": JOB_ID, **({"SLURM_JOB_SLUID": sluid} if sluid else {}), **variables}
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    # No test can be in a group of its choosing: the functions read files of the test's in place of the kernel's.
    argv = ["bash", "-c", f"{FIGURES}\ngroups_root=$1 groups_list=$1/list\n{calls}", "bash", str(root)]
    done = subprocess.run(argv, env={**own, **slurm}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def figures(root: Path, listed: str, samples: str = "", *, sluid: str | None = None) -> dict[str, str]:
    calls = f"take_figures 6<<<'{samples}'\nprintf '%s\\n' \"${{figures[@]}}\""
    found = dict(line.split("=", 1) for line in run(root, listed, calls, sluid=sluid, started="1.5").splitlines())
    assert found.pop("started") == "1.5"
    return found


def lay(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("listed", "sluid", "found"),
    [
        (OF_VERSION_1, None, "freezer/slurm_n1/uid_0/job_4711047/step_batch"),
        (OF_VERSION_1, SLUID, "freezer/slurm_n1/uid_0/job_4711047/step_batch"),
        (OF_VERSION_1.replace(JOB_ID, JOB_ID + "1"), None, None),
        (
            OF_VERSION_2.format(f"job_{JOB_ID}"),
            None,
            f"system.slice/slurmstepd.scope/job_{JOB_ID}/step_batch/user/task_0",
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
    for line in listed.splitlines():
        controllers, path = line.split(":", 2)[1:]
        lay(tmp_path, {f"{controllers}{path}/cgroup.procs".lstrip("/"): ""})
    text = run(tmp_path, listed, 'find_group; printf %s "$group"', sluid=sluid)
    assert os.path.normpath(text or ".") == (f"{tmp_path}/{found}/cgroup.procs" if found else ".")


# Of Linux 6.18 and Slurm 22.05, without the lines that nobody reads.
STAT_1 = """cache 4096
rss 385024
shmem 0
total_cache {files}
total_rss {anonymous}
total_shmem {shared}
"""
OOM_1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
STAT_2 = "anon {anonymous}\nfile {files}\nkernel 524288\nshmem {shared}\npgscan 128\npgsteal 0\n"
EVENTS_2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 0\n"
LIST_1 = f"6:freezer:/slurm_n1/uid_1/job_{JOB_ID}/step_batch\n4:memory:/slurm_n1/uid_1/job_{JOB_ID}/step_batch/task_0\n"
WITH_CPU = f"{LIST_1}2:cpu,cpuacct:/slurm_n1/uid_1/job_{JOB_ID}/step_batch\n0::/\n"
MEMORY_1, FREEZER_1, CPU_1 = (f"{name}/slurm_n1/uid_1/job_{JOB_ID}" for name in ("memory", "freezer", "cpu,cpuacct"))


def memory(anonymous: int = 0, shared: int = 0, files: int = 0) -> dict[str, int]:
    """In MiB; the kernel counts shared memory among the files."""
    return {"anonymous": anonymous * MIB, "shared": shared * MIB, "files": (shared + files) * MIB}


def of_version_1(now: Mapping[str, int], peak_mib: int | None, killed: tuple[int, ...] = (0,)) -> dict[str, str]:
    groups = ("", "/step_batch", "/step_batch/task_0", "/step_0")
    ooms = {f"{MEMORY_1}{group}/memory.oom_control": OOM_1.format(n) for group, n in zip(groups, killed, strict=False)}
    peak = {} if peak_mib is None else {f"{MEMORY_1}/memory.max_usage_in_bytes": f"{peak_mib * MIB}\n"}
    return {f"{MEMORY_1}/memory.stat": STAT_1.format(**now), f"{FREEZER_1}/cgroup.procs": "", **ooms, **peak}


def of_version_2(name: str, now: Mapping[str, int], peak_mib: int | None, killed: int = 0) -> dict[str, str]:
    group = f"system.slice/slurmstepd.scope/{name}"
    peak = {} if peak_mib is None else {f"{group}/memory.peak": f"{peak_mib * MIB}\n"}
    return {
        f"{group}/memory.stat": STAT_2.format(**now),
        f"{group}/memory.events": EVENTS_2.format(killed),
        f"{group}/cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
        **peak,
    }


@pytest.mark.parametrize("name", [f"job_{JOB_ID}", SLUID])
def test_version_2(tmp_path: Path, name: str) -> None:
    lay(tmp_path, of_version_2(name, memory(2, 1, 30), 100, 2))
    found = figures(tmp_path, OF_VERSION_2.format(name), sluid=SLUID)
    assert found == {"memory": str(70 * MIB), "cpu": "2500000", "killed": "2"}


def test_version_1(tmp_path: Path) -> None:
    lay(tmp_path, {**of_version_1(memory(2, 1, 30), 100, (0, 1, 2)), f"{CPU_1}/cpuacct.usage": "2500000999\n"})
    assert figures(tmp_path, WITH_CPU) == {"memory": str(70 * MIB), "cpu": "2500000", "killed": "3"}


@pytest.mark.parametrize(
    ("now", "peak_mib", "samples", "expected_mib"),
    [
        # `cat` of a file of 400 MiB.
        (memory(2, 0, 400), 420, "5 400", 20),
        # A table of 300 MiB that was seen, and a file of 400 that was read after it.
        (memory(2, 0, 400), 420, "300 0;301 400", 301),
        # Between two looks there was more.
        (memory(2, 0, 10), 900, "300 10", 890),
        # A file of 800 MiB was written and removed: what the peak was made of nobody knows.
        (memory(2, 0, 10), 900, "300 800", 300),
        # No look came in time.
        (memory(2, 1, 10), 60, "", 50),
        # The kernel tells no peak (version 2 before Linux 5.19).
        (memory(2, 1, 10), None, "300 10", 300),
        (memory(20, 20, 10), None, "30 10", 40),
        (memory(2, 1, 10), None, "", None),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_memory_is_that_of_the_programs_and_not_of_files(
    tmp_path: Path, version: int, now: Mapping[str, int], peak_mib: int | None, samples: str, expected_mib: int | None
) -> None:
    files = of_version_1(now, peak_mib) if version == 1 else of_version_2(f"job_{JOB_ID}", now, peak_mib)
    lay(tmp_path, files)
    lines = [" ".join(str(int(mib) * MIB) for mib in each.split()) for each in samples.split(";")]
    found = figures(tmp_path, LIST_1 if version == 1 else OF_VERSION_2.format(f"job_{JOB_ID}"), "\n".join(lines))
    assert found.get("memory") == (None if expected_mib is None else str(expected_mib * MIB))


@pytest.mark.parametrize(
    ("pages", "expected"),
    [(0, {"memory": str(890 * MIB)}), (256, {"memory": str(889 * MIB)}), (300_000, {})],
    ids=["none", "a few", "more than there ever were"],
)
def test_what_the_kernel_has_taken_back_is_taken_off(tmp_path: Path, pages: int, expected: Mapping[str, str]) -> None:
    name = f"job_{JOB_ID}"
    files = of_version_2(name, memory(2, 0, 10), 900)
    (stat,) = [path for path in files if path.endswith("/memory.stat")]
    lay(tmp_path, {**files, stat: files[stat].replace("pgsteal 0", f"pgsteal {pages}")})
    found = figures(tmp_path, OF_VERSION_2.format(name))
    assert {key: value for key, value in found.items() if key == "memory"} == expected


@pytest.mark.parametrize(
    ("read_mib", "samples", "killed", "expected_mib"),
    [
        # It may have had 200 MiB of files at once, whatever a look has seen.
        (200, "300 10", 0, 890),
        # Of 890 MiB, 790 may be files that the kernel has dropped between two looks.
        (800, "300 10", 0, 300),
        (800, "50 10", 0, 100),
        (2000, "300 10", 0, 300),
        # No look came in time: nothing is known.
        (2000, "", 0, None),
        # Before it kills for want of memory, it drops the files.
        (2000, "300 10", 1, 890),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_what_may_be_files_that_came_and_went_unseen(
    tmp_path: Path, version: int, read_mib: int, samples: str, killed: int, expected_mib: int | None
) -> None:
    now = memory(2, 0, 10)
    name = f"job_{JOB_ID}"
    lay(tmp_path, of_version_1(now, 900, (killed,)) if version == 1 else of_version_2(name, now, 900, killed))
    line = " ".join(str(int(mib) * MIB) for mib in samples.split())
    # It is known of what was waited for; half of it is read, and half written.
    moved = f"head -c {read_mib // 2 * MIB} /dev/zero >/dev/null\n"
    calls = f"{moved}take_figures 6<<<'{line}'\nprintf '%s\\n' \"${{figures[@]}}\""
    found = dict(
        each.split("=", 1)
        for each in run(tmp_path, LIST_1 if version == 1 else OF_VERSION_2.format(name), calls).splitlines()
    )
    if expected_mib is None:
        assert "memory" not in found
    else:
        # This shell reads its own text as well.
        assert expected_mib - 1 <= int(found["memory"]) / MIB <= expected_mib


@pytest.mark.parametrize("version", [1, 2])
def test_a_launcher_tells_the_same_of_each_node(tmp_path: Path, version: int) -> None:
    """Ray, MPI and torchrun: with what the batch script reads, on nodes that have none."""
    usage = shell_file("dagster_slurm.launchers", "usage.sh")
    if version == 1:
        lay(tmp_path, {**of_version_1(memory(2, 1, 30), 100, (0, 1, 1)), f"{CPU_1}/cpuacct.usage": "2500000999\n"})
    else:
        lay(tmp_path, of_version_2(f"job_{JOB_ID}", memory(2, 1, 30), 100, 2))
    listed = WITH_CPU if version == 1 else OF_VERSION_2.format(f"job_{JOB_ID}")
    assert run(tmp_path, listed, f"{usage}\nnodes_usage; echo; nodes_killed") == f"{70 * MIB} 2500000 2\n2"
    assert run(tmp_path, "0::/user.slice\n", f"{usage}\nnodes_usage; echo; nodes_killed") == "- - 0\n0"
    here = "nodes_is_here=yes; unset -f find_group measure_memory measure_cpu count_killed"
    assert run(tmp_path, listed, f"{usage}\n{here}\nnodes_usage; echo; nodes_killed") == "- - 0\n0"


def test_a_launcher_looks_at_each_node_while_it_runs(tmp_path: Path) -> None:
    """A file of 800 MiB was read, and the kernel has dropped it since."""
    usage = shell_file("dagster_slurm.launchers", "usage.sh")
    name = f"job_{JOB_ID}"
    now = of_version_2(name, memory(2, 1, 30), 900)
    (stat,) = [path for path in now if path.endswith("/memory.stat")]
    lay(tmp_path, {**now, stat: STAT_2.format(**memory(100, 0, 800))})
    after = f"printf '%s' '{now[stat]}' >'{tmp_path / stat}'"
    calls = f"{usage}\nnodes_find_group; nodes_look\n{after}\nnodes_look; nodes_usage"
    assert run(tmp_path, OF_VERSION_2.format(name), calls) == f"{100 * MIB} 2500000 0"


def test_where_nobody_counts_cpu_time_this_shell_does(tmp_path: Path) -> None:
    """As Slurm does of a batch script, by what has ended and was waited for."""
    lay(tmp_path, of_version_1(memory(1), 5))
    busy = "(for ((n = 0; n < 100000; n++)); do :; done)\n"
    calls = f"{busy}take_figures 6</dev/null\nprintf '%s\\n' \"${{figures[@]}}\""
    found = dict(line.split("=", 1) for line in run(tmp_path, LIST_1, calls).splitlines())
    assert 10_000 <= int(found["cpu"]) <= 5_000_000


@pytest.mark.parametrize("was_seen", [False, True])
def test_what_a_step_has_used_is_not_known_without_a_group(tmp_path: Path, was_seen: bool) -> None:
    lay(tmp_path, of_version_1(memory(1), 5))
    if not was_seen:
        lay(tmp_path, {f"{FREEZER_1}/step_0/cgroup.procs": "", f"{MEMORY_1}/step_0/cgroup.procs": ""})
    assert "cpu" not in figures(tmp_path, LIST_1, "5 5 yes" if was_seen else "")


@pytest.mark.parametrize(
    ("listed", "files", "expected"),
    [
        # Slurm holds nobody to any memory, and so knows of nobody who was killed.
        ("0::/user.slice\n", {}, {"killed": "0"}),
        (f"6:freezer:/slurm_n1/uid_1/job_{JOB_ID}/step_batch\n", {}, {"killed": "0"}),
        (
            OF_VERSION_2.format(f"job_{JOB_ID}"),
            {f"system.slice/slurmstepd.scope/job_{JOB_ID}/cpu.stat": ""},
            {"killed": "0"},
        ),
        # Groups that cannot be seen from here, and a kernel before 4.13.
        (OF_VERSION_2.format(f"job_{JOB_ID}"), {}, {}),
        (LIST_1, {}, {}),
        (LIST_1, {f"{MEMORY_1}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}, {}),
    ],
)
def test_what_is_not_known_is_left_out(
    tmp_path: Path, listed: str, files: Mapping[str, str], expected: Mapping[str, str]
) -> None:
    lay(tmp_path, files)
    found = figures(tmp_path, listed)
    found.pop("cpu", None)
    assert found == expected


@pytest.mark.parametrize("text", ["", "anon\n", "anon x\nfile y\n", "anon 5\n", "\0\n"])
def test_files_of_another_form_are_not_read(tmp_path: Path, text: str) -> None:
    group = f"system.slice/slurmstepd.scope/job_{JOB_ID}"
    lay(tmp_path, {f"{group}/memory.stat": text, f"{group}/memory.peak": "max\n", f"{group}/cpu.stat": text})
    assert figures(tmp_path, OF_VERSION_2.format(f"job_{JOB_ID}")) == {}


def test_samples_are_printed_when_they_have_grown(tmp_path: Path) -> None:
    name = f"job_{JOB_ID}"
    stat = tmp_path / f"system.slice/slurmstepd.scope/{name}/memory.stat"
    lay(tmp_path, of_version_2(name, memory(100, 0, 10), 5))
    looks = [memory(100, 0, 10), memory(101, 1, 10), memory(90, 20, 10), memory(1, 0, 90), memory(1, 0, 10)]
    calls = ["most=0 files=0 steps='' said=-1 listed=0", "find_group"]
    for look in looks:
        calls += [f"printf '%s' '{STAT_2.format(**look)}' >'{stat}'", "sample"]
    printed = run(tmp_path, OF_VERSION_2.format(name), "\n".join(calls))
    seen = [tuple(int(word) // MIB for word in line.split()) for line in printed.splitlines()]
    assert seen == [(100, 10), (110, 10), (110, 90)]


def test_a_job_tells_what_it_was_given(tmp_path: Path) -> None:
    variables = {
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_JOB_CPUS_PER_NODE": "72(x2),36",
        "SLURM_CPUS_ON_NODE": "72",
        "SLURM_MEM_PER_CPU": "100",
        "SLURM_GPUS_ON_NODE": "2",
    }
    _, root = run_job(tmp_path, "true", **variables)
    end = end_of(root)
    told = end.figures
    assert (told.nodes, told.cpus, told.mem_mib, told.gpus, told.killed) == (3, 180, 7200, 2, 0)
    assert told.started_at is not None and told.started_at <= end.at_epoch_seconds
    assert (told.submitted_at, told.memory_bytes) == (None, None)


def test_a_job_tells_when_sbatch_had_answered(tmp_path: Path) -> None:
    answer = tmp_path / "runs/run/it's/0/claim/0/stdout"
    payload = f"echo 5 >{str(answer)!r}; touch -d @1700000000.25 {str(answer)!r}"
    _, root = run_job(tmp_path, payload.replace("'", '"').replace('it"s', "it's"))
    assert end_of(root).figures.submitted_at == 1700000000.25


def test_without_slurm_nothing_is_told(tmp_path: Path) -> None:
    _, root = run_job(tmp_path, "true")
    told = end_of(root).figures
    assert told == Figures(started_at=told.started_at, killed=0)
