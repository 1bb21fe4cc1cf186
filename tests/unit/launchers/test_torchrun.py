"""torchrun, with a program in the place of the payload's Python that starts ranks as torchrun does."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.batch_script import in_slurm

from dagster_slurm import TorchrunLauncher
from dagster_slurm.environments import Activation
from dagster_slurm.launchers import Payload, Place, script_here
from dagster_slurm.slurm.request import merge

PYTHON = """#!/bin/bash
case $1 in
*torchrun_facts.py)
    [ -z "$NO_TORCH" ] || { echo 'there is no torch' >&2; exit 1; }
    echo "2 20001 2.13.0"; exit ;;
esac
echo "$OMP_NUM_THREADS $*" >>"$FAKE/agents"
while [ "$1" != --no-python ]; do shift; done
shift
for rank in 0 1; do
    for TORCHELASTIC_RESTART_COUNT in 0 1; do
        export TORCHELASTIC_RESTART_COUNT
        RANK=$rank "$@" && break
        status=$?
    done || exit "$status"
done
"""
SRUN = """#!/bin/bash
echo "$*" >>"$FAKE/srun"
while [ "${1#--}" != "$1" ]; do shift; done
"$@"
exit "${SRUN_STATUS:-$?}"
"""


class Job:
    """A job of one node, or mode `local`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "bin").mkdir()
        for name, text in {"python": PYTHON, "srun": SRUN}.items():
            path = directory / "bin" / name
            path.write_text(text)
            path.chmod(0o755)
        (directory / "env.sh").touch()
        (directory / "work").mkdir()

    def run(self, payload: str, launcher: TorchrunLauncher, **variables: str) -> tuple[int, list[str], str]:
        (self.directory / "work" / "payload.sh").write_text(payload)
        place = Place(Activation((), str(self.directory / "bin/python"), ""))
        script = script_here(launcher.plan(Payload("payload.sh", "bash", None), place), str(self.directory))
        path = f"{self.directory / 'bin'}:{os.environ['PATH']}"
        environment = in_slurm(**{"PATH": path, "FAKE": str(self.directory), "SLURM_JOB_NUM_NODES": "1", **variables})
        environment = {name: value for name, value in environment.items() if name != "OMP_NUM_THREADS"}
        done = subprocess.run(
            ["bash", "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert not list(self.directory.glob("ranks.*"))
        return done.returncode, sorted(done.stdout.splitlines()), done.stderr

    def told(self, name: str) -> str:
        return re.sub(r"--rdzv-id=\w{6}|\d+[.]\d+[.]\d+[.]\d+", "*", (self.directory / name).read_text())


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_an_agent_on_a_node_is_given_what_the_fields_say(job: Job) -> None:
    launcher = TorchrunLauncher(max_restarts=3, join_timeout=60, options=["--monitor-interval=1"])
    code, stdout, stderr = job.run(
        'echo "${DAGSTER_PIPES_MESSAGES#mine}"', launcher, DAGSTER_PIPES_MESSAGES="mine", SLURM_CPUS_ON_NODE="6"
    )
    assert code == 0, stderr
    assert stdout[0] == "[0] " and re.fullmatch(r"\[1\] \S+", stdout[1])
    agent = job.told("agents")
    assert agent.startswith(
        "3 -m torch.distributed.run --nnodes=1 --nproc-per-node=2 --max-restarts=3 --rdzv-backend=c10d "
        "--rdzv-endpoint=*:20001 * --rdzv-conf=join_timeout=60 --monitor-interval=1 --no-python bash /"
    )
    assert "--nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=6 --wait=30" in job.told("srun")
    assert "torch 2.13.0: nodes: 1, ranks on each: 2" in stderr


def test_the_last_start_of_a_rank_counts(job: Job) -> None:
    code, _, stderr = job.run('[ "$TORCHELASTIC_RESTART_COUNT" = 1 ]', TorchrunLauncher(max_restarts=1))
    assert code == 0, stderr


@pytest.mark.parametrize(
    ("payload", "status", "code", "text"),
    [
        ('[ "$RANK" = 0 ] || exit 5', "", 5, r"rank 1 on \S+ was the first of 2 to fail: exit code 5"),
        ('kill -9 "$PPID"; sleep 0.2', "0", 74, r"no end of \d of 2 ranks: "),
    ],
)
def test_the_end_of_every_rank_counts(job: Job, payload: str, status: str, code: int, text: str) -> None:
    returned, _, stderr = job.run(payload, TorchrunLauncher(), **({"SRUN_STATUS": status} if status else {}))
    assert (returned, bool(re.search(text, stderr))) == (code, True), stderr


def test_an_environment_without_torch_is_refused(job: Job) -> None:
    code, _, stderr = job.run("echo ran", TorchrunLauncher(), NO_TORCH="1")
    assert (code, "there is no torch" in stderr) == (74, True)
    assert not (job.directory / "agents").exists()


@pytest.mark.parametrize("value", ["auto", 2, "8"])
def test_numbers_of_ranks(value: Any) -> None:
    assert TorchrunLauncher(nproc_per_node=value).nproc_per_node == value


@pytest.mark.parametrize("value", ["two", -1, 1.5, None, True])
def test_no_numbers_of_ranks(value: Any) -> None:
    with pytest.raises(ValidationError, match="number of ranks"):
        TorchrunLauncher(nproc_per_node=value)


@pytest.mark.parametrize(("options", "refusals"), [({}, 0), ({"ntasks_per_node": 1}, 0), ({"ntasks_per_node": 4}, 1)])
def test_one_agent_a_node(options: dict[str, int], refusals: int) -> None:
    found = TorchrunLauncher().requirements(merge(options))
    assert (dict(found.options), len(found.refusals), found.packages) == ({"ntasks_per_node": 1}, refusals, ("torch",))
