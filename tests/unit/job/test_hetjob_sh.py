"""hetjob.sh, the leader's script, without Slurm: stand-ins for srun and scontrol run the components on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.support.batch_script import JOB_ID
from tests.support.waiting import eventually

from dagster_slurm.cluster.description import EndMark, parse_marks
from dagster_slurm.job.het_script import OnFailure, het_scripts, leader_hook
from dagster_slurm.launchers import LaunchPlan, launch_script
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.request import merge

# What it is told of the step stands in its variables; LOST is a step that ends with 0 and has done nothing.
SRUN = """#!/bin/bash
export SLURM_STEP_ID=${1#--het-group=} SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=7
[ "$SLURM_STEP_ID" != "$LOST" ] || exit 0
while [ "$1" != bash ]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
printf '%s\\n' "$3" "$3"
"""
SIZES = "echo $SLURM_JOB_NUM_NODES ${SLURM_NTASKS-none} $SLURM_JOB_NODELIST $DAGSTER_SLURM_HET_NODELIST_1"


class Leader:
    """One heterogeneous job of payloads in bash, by their names."""

    def __init__(self, tmp_path: Path, payloads: Mapping[str, str], on_failure: OnFailure = "wait") -> None:
        directory = RunDirectory(str(tmp_path), "run", "it's")
        self.root, self._programs = Path(directory.path), tmp_path / "bin"
        plans = [LaunchPlan((), ("bash", "-c", text), (leader_hook(),)) for text in payloads.values()]
        requests = {name: merge({"num_nodes": 1 + number}) for number, name in enumerate(payloads)}
        script, beside = het_scripts(
            requests, list(map(launch_script, plans)), directory=directory, on_failure=on_failure
        )
        for number in range(len(payloads)):
            place = self.root / "elements" / str(number)
            for name in ("work", "log", "bin"):
                (place / name).mkdir(parents=True)
            for name in ("env.sh", "log/status", "log/stdout.0", "log/stderr.0", "log/messages.0"):
                (place / name).touch()
        for entry in beside:
            assert isinstance(entry.source, bytes)
            (self.root / entry.name).write_bytes(entry.source)
        for path in (self.root / "claim/0", self.root / "work", self._programs):
            path.mkdir(parents=True)
        (self.root / "env.sh").touch()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (self._programs / name).write_text(text)
            (self._programs / name).chmod(0o700)
        self._script = tmp_path / "job.sh"
        self._script.write_text(script)
        self._count = len(payloads)

    def run(self, **variables: str) -> int:
        """Its exit code."""
        leader = self.start(**variables)
        assert leader.communicate(timeout=60) == (b"", b"")
        return leader.returncode

    def start(self, **variables: str) -> subprocess.Popen[bytes]:
        """Its script, in a process group of its own."""
        groups = {
            f"{name}_HET_GROUP_{number}": value
            for number in range(self._count)
            for name, value in (
                ("SLURM_JOB_ID", f"{JOB_ID}{number}"),
                ("SLURM_JOB_NODELIST", f"m{number}"),
                ("SLURM_JOB_NUM_NODES", str(1 + number)),
                ("SLURM_JOB_CPUS_PER_NODE", "2(x2)"),
            )
        }
        own = {"PATH": f"{self._programs}:{os.environ['PATH']}", "SLURM_JOB_ID": JOB_ID, "SLURMD_NODENAME": "m0"}
        return subprocess.Popen(
            ["bash", str(self._script), "0"],
            env={**os.environ, **own, **groups, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def codes(self) -> Sequence[int | None]:
        """Those of the components' end lines."""
        found: list[int | None] = []
        for number in range(self._count):
            marks, _ = parse_marks(self.status(number))
            ends = [mark for mark in marks if isinstance(mark, EndMark) and mark.job_id == f"{JOB_ID}+{number}"]
            found.append(ends[-1].exit_code if ends else None)
        return found

    def status(self, number: int) -> str:
        """What is known of a component."""
        return (self.root / f"elements/{number}/log/status").read_text()

    def log(self, number: int, stream: str) -> str:
        """What a component has said."""
        return (self.root / f"elements/{number}/log/{stream}.0").read_text()


def test_each_has_its_own_sizes_and_knows_the_nodes_of_the_other(tmp_path: Path) -> None:
    leader = Leader(tmp_path, {"a": SIZES, "b": SIZES})
    assert (leader.run(), leader.codes()) == (0, [0, 0])
    assert [leader.log(number, "stdout") for number in (0, 1)] == ["1 none m0 m1,m1\n", "2 none m1 m1,m1\n"]


def test_it_ends_with_the_worst_status_when_all_have_ended(tmp_path: Path) -> None:
    leader = Leader(tmp_path, {"a": "exit 3", "b": "sleep 0.5; exit 5", "c": "sleep 1"})
    assert (leader.run(), leader.codes()) == (5, [3, 5, 0])


def test_a_step_without_an_end_line_has_failed(tmp_path: Path) -> None:
    leader = Leader(tmp_path, {"a": "true", "b": "true"})
    assert (leader.run(LOST="1"), leader.codes()) == (74, [0, None])


@pytest.mark.parametrize("name", ["b", "b\nKILL now; $(touch x) `id` 'q' \"d\""])
def test_one_that_fails_ends_the_others_and_says_why(tmp_path: Path, name: str) -> None:
    """Whatever it is called: words to the others are lines, of which each begins with a signal."""
    leader = Leader(tmp_path, {"a": "sleep 300", name: "exit 3"}, "cancel")
    assert (leader.run(), leader.codes()) == (3, [143, 3])
    shown = name.replace("\n", " ")
    assert f'dagster-slurm: ended, since {shown} has failed: on_failure is "cancel"\n' in leader.log(0, "stderr")


def test_where_another_job_has_the_gate_nothing_runs_and_nothing_has_failed(tmp_path: Path) -> None:
    leader = Leader(tmp_path, {"a": "echo ran", "b": "echo ran"})
    (leader.root / "claim/0/gate").symlink_to("4711")
    assert (leader.run(), leader.codes(), leader.log(0, "stdout")) == (0, [None, None], "")


def test_a_signal_for_all_of_its_processes_keeps_it_from_no_end(tmp_path: Path) -> None:
    """As of `scancel --full`, or of a site's own tools: everything that the batch script has started gets it."""
    leader = Leader(tmp_path, {"a": "sleep 300", "b": "sleep 300"})
    with leader.start() as process:
        eventually(lambda: all("start" in leader.status(number) for number in (0, 1)))
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) == 143
    assert leader.codes() == [143, 143]
