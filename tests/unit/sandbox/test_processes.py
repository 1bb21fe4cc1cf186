"""A process is its id and its start time; what has the id now may be another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dagster_slurm.process_identity import stat_of
from dagster_slurm_sandbox import processes
from dagster_slurm_sandbox.processes import Process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    noted: list[Process] = []
    mark = str(tmp_path)
    argv = ["/bin/sh", "-c", "sleep 60 & sleep 60; true"]
    process = processes.start(argv, log=tmp_path / "log", environment={"MARK": mark}, on_start=noted.append)
    assert noted == [process]
    yield process
    processes.end(processes.matching(lambda directory: processes.has_variable(directory, "MARK", mark)))


def test_end_ends_the_process_and_reaps_it(sleeper: Process) -> None:
    assert processes.is_alive(sleeper)
    processes.end([sleeper], grace_seconds=2)
    assert not processes.is_alive(sleeper)
    assert not Path("/proc", str(sleeper.pid)).exists()
    processes.end([sleeper])


def test_an_id_that_was_used_again_is_not_signalled(sleeper: Process) -> None:
    earlier = replace(sleeper, start_ticks=sleeper.start_ticks - 1)
    assert not processes.is_alive(earlier)
    assert not processes.send(earlier, signal.SIGKILL)
    processes.end([earlier])
    assert processes.is_alive(sleeper)


def test_stopped_is_alive_and_can_be_ended(sleeper: Process) -> None:
    processes.send(sleeper, signal.SIGSTOP)
    while not processes.is_stopped(sleeper):
        pass
    assert processes.is_alive(sleeper)
    processes.end([sleeper], grace_seconds=2)
    assert not processes.is_alive(sleeper)


def test_descendants_are_found(sleeper: Process) -> None:
    while len(found := processes.descendants(sleeper)) < 2:
        pass
    assert sleeper not in found


def test_a_process_is_found_by_its_environment(sleeper: Process, tmp_path: Path) -> None:
    def marked(directory: Path) -> bool:
        return processes.has_variable(directory, "MARK", str(tmp_path))

    # While a program is executed, its environment is empty for a moment.
    while sleeper not in processes.matching(marked):
        pass
    processes.end([*processes.descendants(sleeper), sleeper])
    assert not processes.matching(marked)


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["/bin/true"])
    while (status := stat_of(child.pid)) and status.state != "Z":
        pass
    assert processes.identify(child.pid) is None
    child.wait()


def test_this_process_runs_as_its_user() -> None:
    assert processes.has_user(Path("/proc/self"), os.geteuid())
    assert not processes.has_user(Path("/proc/self"), 54321)
