"""Ranks: how they are started and judged, with programs in the place of srun and of the payload's Python."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.support.batch_script import in_slurm
from tests.support.waiting import eventually, written

from dagster_slurm import MPILauncher
from dagster_slurm.environments import Activation
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.launchers import Payload, Place, script_here
from dagster_slurm.slurm.request import merge

# What stands in for srun: every rank is a process of this machine, on a node of its own. NO_END kills what runs a rank.
SRUN = """#!/bin/bash
echo "$*" >>"$FAKE/srun"
for word; do
    case $word in
    --ntasks=*) ranks=${word#*=} ;;
    --mpi=*) export FAKE_MPI=${word#*=} ;;
    --*) ;;
    *) break ;;
    esac
    shift
done
[ "$1" = "$FAKE/bin/python" ] && exec "$@"
for ((rank = 0; rank < ranks; rank++)); do
    if [ "$rank" = "$NO_START" ]; then continue; fi
    SLURM_PROCID=$rank SLURM_STEP_ID=7 setsid "$@" &
done
if [ -n "$NO_END" ]; then sleep 1; pkill -KILL -P $$ -f "ranks[.].*rank.sh" -n; fi
for ((rank = 0; rank < ranks; rank++)); do wait -n || status=$?; done
exit "${SRUN_STATUS:-${status:-0}}"
"""
# What stands in for the environment's Python: it says what FAKE_LIBRARY is, and what world each way gives.
PYTHON = """#!/bin/bash
case $2 in
library) [ -n "$FAKE_LIBRARY" ] || { echo 'there is no mpi4py' >&2; exit 1; }; echo "$FAKE_LIBRARY" ;;
world)
    case " $RIGHT " in
    *" ${FAKE_MPI:-mpirun} "*) echo "dagster-slurm-world 3 3 on n1" ;;
    *) for _ in 1 2 3; do echo "dagster-slurm-world 1 1 on n1"; done ;;
    esac
    ;;
esac
"""


class Job:
    """A job of three tasks on one node."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "bin").mkdir()
        for name, text in {
            "srun": SRUN,
            "python": PYTHON,
            "scancel": '#!/bin/sh\necho "$*" >>"$FAKE/scancel"\n',
        }.items():
            path = directory / "bin" / name
            path.write_text(text)
            path.chmod(0o755)
        (directory / "env.sh").touch()
        (directory / "work").mkdir()

    def start(self, launcher: MPILauncher, payload: str, *, slow: str = "", **variables: str) -> subprocess.Popen[str]:
        """Begin it; what `slow` assigns is noted half a second after the process was made."""
        (self.directory / "work" / "payload.sh").write_text(payload)
        place = Place(Activation((), str(self.directory / "bin/python"), ""))
        script = script_here(launcher.plan(Payload("payload.sh", "bash", None), place), str(self.directory))
        assert not slow or f"\n{slow}\n" in script
        script = script.replace(f"\n{slow}\n", f"\nsleep 0.5\n{slow}\n") if slow else script
        job = {
            "SLURM_JOB_ID": "12",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_NTASKS_PER_NODE": "3",
            "FAKE": str(self.directory),
        }
        path = {"PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}"}
        mpi = {"FAKE_LIBRARY": "MPICH 5.0.2", "RIGHT": "pmi2"}
        return subprocess.Popen(
            ["bash", "-c", script],
            env=in_slurm(**{**job, **path, **mpi, **variables}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, launcher: MPILauncher, payload: str, **variables: str) -> tuple[int, list[str], str]:
        process = self.start(launcher, payload, **variables)
        stdout, stderr = process.communicate(timeout=60)
        assert not list(self.directory.glob("ranks.*")), "nothing is left"
        return process.returncode, sorted(stdout.splitlines()), stderr

    def asked_of_srun(self) -> list[str]:
        return re.findall(r"--mpi=(\w+)", (self.directory / "srun").read_text())


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_the_lines_of_every_rank_are_told_apart_and_one_is_heard(job: Job) -> None:
    said = 'echo "out ${DAGSTER_PIPES_MESSAGES#mine}"; echo err >&2; echo last'
    code, stdout, stderr = job.run(MPILauncher(), said, DAGSTER_PIPES_MESSAGES="mine")
    assert code == 0
    unheard = {line.partition(" out ")[2] for line in stdout if " out " in line and not line.startswith("[0]")}
    assert len(unheard) == 1 and "mine" not in unheard.pop()
    assert "[0] out " in stdout
    assert [line for line in stdout if "out" not in line] == ["[0] last", "[1] last", "[2] last"]
    assert sorted(line for line in stderr.splitlines() if line.endswith("err")) == ["[0] err", "[1] err", "[2] err"]
    assert "MPICH 5.0.2, srun --mpi=pmi2: 3 ranks, 3 on n1" in stderr


@pytest.mark.parametrize("status", [0, 3])
def test_what_ranks_put_into_tmp_is_taken_away(job: Job, tmp_path: Path, status: int) -> None:
    (tmp_path / "tmp").mkdir()
    variables = {"TMPDIR": str(tmp_path / "tmp")}
    code, stdout, _ = job.run(MPILauncher(), f'echo "$TMPDIR" | tee "$(mktemp)"; exit {status}', **variables)
    assert code == status
    (directory,) = {line.partition(" ")[2] for line in stdout}
    assert Path(directory).parent == tmp_path / "tmp"
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("payload", "variables", "code", "text"),
    [
        ('[ "$DAGSTER_SLURM_RANK" != 1 ] || exit 7', {}, 7, r"rank 1 on \S+ was the first of 3 to fail: exit code 7"),
        # Who was told to end was so because of another, also where that has ended later.
        (
            "case $DAGSTER_SLURM_RANK in 0) kill $$ ;; 2) sleep 0.5; exit 3 ;; esac",
            {},
            3,
            r"rank 2 on \S+ was the first of 3 to fail: exit code 3",
        ),
        ("kill -9 $$", {}, 137, "rank . on .* was the first of 3 to fail: exit code 137"),
        # srun ends with 0 after the loss of a node.
        ("true", {"NO_START": "2", "SRUN_STATUS": "0"}, 74, r"no end of 1 of 3 ranks: 2 \(never begun\)"),
        ("sleep 3", {"NO_END": "1", "SRUN_STATUS": "0"}, 74, r"no end of 1 of 3 ranks: \d on \w+"),
        ("true", {"SRUN_STATUS": "5"}, 5, "all 3 ranks have ended with 0, and what had started them with 5"),
    ],
)
def test_the_end_of_every_rank_counts(
    job: Job, payload: str, variables: Mapping[str, str], code: int, text: str
) -> None:
    returned, _, stderr = job.run(MPILauncher(mpi="pmi2"), payload, **variables)
    assert (returned, bool(re.search(text, stderr))) == (code, True), stderr


@pytest.mark.parametrize(
    ("library", "right", "tried"),
    [
        ("MPICH 5.0.2", "pmi2 pmix", ["pmi2"]),
        ("Open MPI v5.0.11", "pmi2 pmix", ["pmix"]),
        ("Open MPI v4.0.0", "pmi2", ["pmix", "pmi2"]),
        ("Intel(R) MPI Library 2021.18", "pmix", ["pmi2", "pmix"]),
        ("another", "pmi2", ["pmix", "pmi2"]),
    ],
)
def test_auto_takes_the_first_that_works(job: Job, library: str, right: str, tried: list[str]) -> None:
    code, stdout, stderr = job.run(MPILauncher(), "echo ran", FAKE_LIBRARY=library, RIGHT=right)
    assert (code, stdout) == (0, ["[0] ran", "[1] ran", "[2] ran"]), stderr
    assert job.asked_of_srun() == [*tried, tried[-1]]


@pytest.mark.parametrize("mpi", ["none", "auto"])
def test_worlds_of_one_are_refused(job: Job, mpi: str) -> None:
    code, stdout, stderr = job.run(MPILauncher(mpi=mpi), "echo ran", RIGHT="")
    assert (code, stdout) == (74, [])
    assert "MPICH 5.0.2 has no world of the 3 ranks that are asked for; the payload was not started" in stderr
    assert f"srun --mpi={'none' if mpi == 'none' else 'pmix'}: 3 worlds of 1" in stderr
    assert ('mpi="auto" tries what works' in stderr) is (mpi == "none")


def test_an_environment_without_mpi_is_refused(job: Job) -> None:
    code, stdout, stderr = job.run(MPILauncher(), "echo ran", FAKE_LIBRARY="")
    assert (code, stdout) == (74, [])
    assert "there is no mpi4py" in stderr
    assert not (job.directory / "srun").exists()


def test_a_scratch_directory_is_of_one_node(job: Job) -> None:
    variables = {"SLURM_JOB_NUM_NODES": "2", "DAGSTER_SLURM_SCRATCH": "/tmp/x"}
    code, _, stderr = job.run(MPILauncher(), "echo ran", **variables)
    assert code == 74
    assert "scratch is a directory of one node" in stderr


def test_sigterm_reaches_the_ranks_by_slurm_and_others_by_srun(job: Job) -> None:
    process = job.start(MPILauncher(), "trap 'kill $!; exit 0' TERM; sleep 30 & echo ready >>\"$FAKE/ready\"; wait")
    ready = job.directory / "ready"
    eventually(lambda: ready.exists() and len(ready.read_text().split()) == 3)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert eventually(lambda: written(job.directory / "scancel")) == "--signal=TERM 12.7\n"
    assert process.poll() is None, "srun is not told: it would kill all ranks at once"
    subprocess.run(["pkill", "-TERM", "-f", f"^bash {job.directory}/ranks[.].*/rank.sh"], check=True)
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize("way", ["srun", "rank"])
def test_a_signal_that_comes_before_it_is_noted_which_process_it_is_for(job: Job, way: str) -> None:
    waits = "for _ in {1..200}; do sleep 0.05; done; exit 9"
    if way == "rank":
        payload = f"trap 'exit 0' USR1; kill -USR1 $PPID; {waits}"
        assert job.start(MPILauncher(), payload, slow="payload=$!").wait(timeout=30) == 0
        return
    process = job.start(MPILauncher(), f"trap 'exit 0' TERM; : >\"$FAKE/ready\"; {waits}", slow="    started=$!")
    eventually((job.directory / "ready").exists)
    process.send_signal(signal.SIGTERM)
    assert eventually(lambda: written(job.directory / "scancel")) == "--signal=TERM 12.7\n"
    subprocess.run(["pkill", "-TERM", "-f", f"^bash {job.directory}/ranks[.].*/rank.sh"], check=True)
    assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("fields", "options", "needs", "refusal"),
    [
        ({}, {"nodes": 3}, {}, ""),
        ({"tasks_per_node": 2}, {"nodes": 3}, {"ntasks_per_node": 2}, ""),
        ({"np": 5}, {"nodes": 3}, {"ntasks_per_node": 2}, ""),
        ({"np": 5, "tasks_per_node": 4}, {"nodes": 2}, {"ntasks_per_node": 4}, ""),
        ({"tasks_per_node": 2}, {"nodes": 3, "ntasks_per_node": 4}, {"ntasks_per_node": 2}, ""),
        (
            {"tasks_per_node": 4},
            {"ntasks_per_node": 2},
            {"ntasks_per_node": 4},
            "it starts 4 ranks on a node, and ntasks_per_node is 2",
        ),
        (
            {"np": 9, "tasks_per_node": 4},
            {"nodes": 2},
            {"ntasks_per_node": 4},
            "np is 9, and tasks_per_node 4, which makes 8 on 2 nodes",
        ),
    ],
    ids=str,
)
def test_what_mpi_needs_of_a_job(
    fields: dict[str, int], options: dict[str, int], needs: dict[str, int], refusal: str
) -> None:
    found = MPILauncher(**fields).requirements(merge(options))
    assert dict(found.options) == needs
    assert "; ".join(found.refusals) == refusal
    assert found.packages == ("mpi4py",)


def test_a_program_is_no_payload_of_python() -> None:
    place = Place(Activation((), "/env/bin/python", "", wrapper=("apptainer", "exec", "x.sif")))
    start = ("bash", "-c", '. "$DAGSTER_SLURM_RANKS/program.sh"', "ranks")
    plan = MPILauncher().plan(Payload("solve", None, None), place)
    assert plan.command == (*start, "apptainer", "exec", "x.sif", "./solve")
    plan = MPILauncher().plan(Payload("tides.heat", "python", None, "module"), place)
    runner = 'import os; exec(open(os.path.join(os.environ["DAGSTER_SLURM_RANKS"], "mpi_run.py")).read())'
    python = ("apptainer", "exec", "x.sif", "/env/bin/python")
    assert plan.command == (*start, *python, "-c", runner, "-m", "tides.heat")


def test_a_container_that_srun_starts_is_refused() -> None:
    place = Place(Activation((), "python3", "", wrapper=("srun", "--ntasks=1", "--container=x")))
    with pytest.raises(InvalidRequestError, match="srun"):
        MPILauncher().plan(Payload("heat.py", "python", None), place)
