"""The dispatcher of a session (session/dispatch.sh), by itself: stand-ins for Slurm's commands note their words."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import dagster_slurm.session
from dagster_slurm.transport.shell import shell_file

SCRIPTS = Path(dagster_slurm.session.__file__).parent
# It asks for the names of its nodes and a limit, and what is begun has ended at once.
STAND_INS = {
    "scontrol": 'case $2 in config) echo "MaxStepCount = $MAX_STEPS" ;; *) echo n1 ;; esac',
    "scancel": 'echo "$@" >>"$NOTES"',
    "srun": "exit 0",
}


class Dispatcher:
    """That of one allocation."""

    def __init__(self, base: Path) -> None:
        self.allocation = base / "runs" / "sessions" / "session-1" / "0"
        self.requests = self.allocation / "mail" / "requests"
        self.requests.parent.mkdir(parents=True)
        (self.allocation / "work").mkdir()
        shutil.copy(SCRIPTS / "mail.sh", self.allocation / "work")
        self.notes, self.bin = base / "notes", base / "bin"
        self.notes.touch()
        self.bin.mkdir()
        for name, text in STAND_INS.items():
            (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
            (self.bin / name).chmod(0o755)

    def attempt(self, name: str) -> Path:
        """One that is asked for; its status file."""
        log = self.allocation.parents[2] / "run" / name / "0" / "log"
        log.mkdir(parents=True)
        return log / "status"

    def start(self, mail: str, *, max_steps: int = 40000, **values: int) -> subprocess.Popen[bytes]:
        self.requests.write_text(mail)
        said = {"most": 1, "idle_seconds": 60, "limit_seconds": 600, "relay_seconds": 0, "gpus_per_node": 0, **values}
        head = "".join(f"{name}={value}\n" for name, value in said.items())
        files = [shell_file("dagster_slurm.launchers", "pause.sh")]
        files += [(SCRIPTS / name).read_text() for name in ("clusters.sh", "dispatch.sh")]
        script = "\n".join((f"allocation='{self.allocation}'", head, *files))
        path = f"{self.bin}:{os.environ['PATH']}"
        slurm = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_CPUS_PER_NODE": "4"}
        environment = {**os.environ, **slurm, "PATH": path, "NOTES": str(self.notes)}
        environment["MAX_STEPS"] = str(max_steps)
        return subprocess.Popen(["bash", "-c", script], env=environment)

    def run(self, mail: str, *, max_steps: int = 40000, **values: int) -> int:
        return self.start(mail, max_steps=max_steps, **values).wait(60)

    def lines(self) -> list[str]:
        return [line for line in self.requests.read_text().splitlines() if line]


@pytest.fixture
def dispatcher(tmp_path: Path) -> Dispatcher:
    return Dispatcher(tmp_path)


def test_near_its_walltime_it_asks_for_a_successor_once(dispatcher: Dispatcher) -> None:
    assert dispatcher.run("", relay_seconds=600, idle_seconds=5) == 0
    assert dispatcher.lines() == ["relay .", "close ."]


@pytest.mark.parametrize(
    "values",
    [
        {"relay_seconds": 60},
        {"relay_seconds": 0},
        {"relay_seconds": 60, "limit_seconds": 0},
    ],
)
def test_else_it_does_not(dispatcher: Dispatcher, values: dict[str, int]) -> None:
    assert dispatcher.run("", idle_seconds=1, **values) == 0
    assert dispatcher.lines() == ["close ."]


def test_one_that_is_to_end_asks_for_none(dispatcher: Dispatcher) -> None:
    assert dispatcher.run("\nend .\n", relay_seconds=600) == 0
    assert dispatcher.lines() == ["end .", "close ."]


def test_one_that_nobody_needs_gives_its_successor_back(dispatcher: Dispatcher) -> None:
    assert dispatcher.run("\nnext 13 .\n\nend .\n") == 0
    assert dispatcher.notes.read_text() == "--state=PENDING 13\n"


def test_one_whose_steps_go_on_in_it_does_not(dispatcher: Dispatcher) -> None:
    """The time limit of what waits is longer than what is left."""
    status = dispatcher.attempt("a")
    assert dispatcher.run("\nnext 13 .\n\nrun 1 run/a/0 0 a 0 0 1 1 0 0 900 .\n") == 0
    assert dispatcher.notes.read_text() == ""
    assert dispatcher.lines()[-1] == "close ."
    assert status.read_text().split()[:4] == ["over", "12.r1", "0", "75"]


def test_it_begins_fewer_steps_than_slurm_takes(dispatcher: Dispatcher) -> None:
    first, second = dispatcher.attempt("a"), dispatcher.attempt("b")
    requests = "".join(
        f"\nrun {number} run/{name}/0 0 {name} 0 0 1 1 0 0 0 .\n" for number, name in ((1, "a"), (2, "b"))
    )
    assert dispatcher.run(requests, max_steps=2) == 0
    assert [each.read_text().split()[3] for each in (first, second)] == ["0", "75"]
    assert dispatcher.lines()[-1] == "close ."


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_the_rest_of_a_line_comes_later(dispatcher: Dispatcher) -> None:
    process = dispatcher.start("\nlease x .\n\nnext 13 .\n\nen")
    time.sleep(0.5)
    append(dispatcher.requests, "d .\n")
    assert process.wait(60) == 0
    assert dispatcher.notes.read_text() == "--state=PENDING 13\n"


def test_one_that_was_replaced_is_read_on(dispatcher: Dispatcher) -> None:
    process = dispatcher.start("\nnext 13 .\n")
    time.sleep(0.5)
    copy = dispatcher.requests.with_name("copy")
    shutil.copy(dispatcher.requests, copy)
    append(copy, "\nend .\n")
    copy.rename(dispatcher.requests)
    assert process.wait(60) == 0
    assert dispatcher.notes.read_text() == "--state=PENDING 13\n"
