"""Clusters that a session keeps (session/clusters.sh): the real dispatcher, with stand-ins for Slurm's programs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.waiting import eventually

import dagster_slurm.session

ROOM = Path(dagster_slurm.session.__file__).parent
_SLURM = """
srun() { while [ "$1" != bash ]; do shift; done; exec "$@"; }
scontrol() { printf 'n1\\nn2\\n'; }
scancel() { case $1 in --signal=TERM) kill -TERM "$(<"$allocation/pid.${2#*.}")" ;; esac; }
SLURM_JOB_ID=12 SLURM_JOB_NODELIST=n[1-2] SLURM_JOB_CPUS_PER_NODE='4(x2)' SLURM_MEM_PER_NODE=4000
most=10 limit_seconds=0 relay_seconds=0 gpus_per_node=0
"""
# Its number as a step is that of its process; it ends when it is told to, as keep.sh does.
CLUSTER = """
echo $$ >"$ALLOCATION/pid.$$"
echo "start $2 0 1.0 n1 n1 $$" >>../log/status
[ ! -e "$ALLOCATION/fails" ] || exit 74
echo yes >../ready
until read -r _ <../end; do sleep 0.05; done
echo "end $2 0 0" >>../log/status
"""
STEP = """
echo "start $2 0 1.0 n1 n1 $$" >>../log/status
echo "${DAGSTER_SLURM_CLUSTER##*/} $DAGSTER_SLURM_CLUSTER_USES" >../begun
until [ -e ../go ]; do sleep 0.05; done
echo "end $2 0 0" >>../log/status
"""


class Session:
    """An allocation of two nodes of 4 CPUs and 4000 MiB, whose steps end when they are told to."""

    def __init__(self, base: Path, idle_seconds: int = 600) -> None:
        self.runs = base / "with a blank" / "runs"
        self.allocation = self.runs / "sessions" / "session-1" / "0"
        (self.allocation / "mail").mkdir(parents=True)
        (self.allocation / "work").mkdir()
        for name in ("keep.sh", "mail.sh"):
            (self.allocation / "work" / name).write_text((ROOM / "mail.sh").read_text() if name == "mail.sh" else "")
        (self.allocation / "mail" / "requests").touch()
        self.number = 0
        head = f"allocation='{self.allocation}' idle_seconds={idle_seconds}\n{_SLURM}"
        names = ("../launchers/pause.sh", "clusters.sh", "dispatch.sh")
        script = "\n".join((head, *((ROOM / name).read_text() for name in names)))
        (self.allocation / "dispatcher").write_text(script)
        self.process = subprocess.Popen(
            ["bash", self.allocation / "dispatcher"],
            env={**os.environ, "ALLOCATION": str(self.allocation)},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def ask(self, name: str, cluster: str = "", cpus: int = 1) -> None:
        """For a step."""
        attempt = self.runs / "run" / name / "0"
        for directory in ("work", "log"):
            (attempt / directory).mkdir(parents=True)
        (attempt / "job.sh").write_text(STEP)
        (attempt / "cluster.sh").write_text(CLUSTER)
        self.number += 1
        words = f"run {self.number} run/{name}/0 0 {name} 0 0 1 {cpus} 100 0 0"
        self.say(f"{words} {cluster}" if cluster else words)

    def say(self, words: str) -> None:
        with (self.allocation / "mail" / "requests").open("a") as mail:
            mail.write(f"\n{words} .\n")

    def begun(self, name: str) -> str:
        """The cluster that a step has, and how many had it before; empty if it has not begun."""
        file = self.runs / "run" / name / "0" / "begun"
        return file.read_text().strip() if file.exists() else ""

    def begins(self, name: str) -> str:
        eventually(lambda: self.begun(name) != "", name)
        return self.begun(name)

    def ends(self, name: str) -> None:
        (self.runs / "run" / name / "0" / "go").touch()
        status = self.runs / "run" / name / "0" / "log" / "status"
        eventually(lambda: status.exists() and "over 12.r" in status.read_text(), name)

    def runs_whole(self, name: str, cluster: str = "", cpus: int = 1) -> str:
        self.ask(name, cluster, cpus)
        found = self.begins(name)
        self.ends(name)
        return found

    def of_cluster(self, name: str, file: str) -> str:
        return (self.allocation / "clusters" / name / file).read_text().strip()

    def kill(self, name: str) -> None:
        eventually(lambda: self.of_cluster(name, "ready") == "yes")
        os.kill(int(self.of_cluster(name, "log/status").split()[6]), signal.SIGKILL)
        eventually(lambda: "over 12.r" in self.of_cluster(name, "log/status"))


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    with suppress(ProcessLookupError):
        os.killpg(session.process.pid, signal.SIGKILL)
    session.process.wait()


A, B = "ray-a:2:2:1000:0", "ray-b:2:3:1000:0"


def test_steps_that_ask_for_the_same_have_one(session: Session) -> None:
    assert [session.runs_whole(name, A) for name in ("one", "two")] == ["ray-a.1 0", "ray-a.1 1"]
    assert session.of_cluster("ray-a.1", "former") == ""


def test_they_may_use_it_at_once(session: Session) -> None:
    session.ask("one", A)
    session.ask("two", A)
    assert [session.begins(name) for name in ("one", "two")] == ["ray-a.1 0", "ray-a.1 1"]
    # It has two of the first node's CPUs, and they have the others.
    session.ask("three", A)
    session.ends("one")
    assert session.begins("three") == "ray-a.1 2"


def test_what_does_not_ask_has_none(session: Session) -> None:
    session.runs_whole("one", A)
    session.ask("two", cpus=2)
    eventually((session.runs / "run/two/0/begun").exists)
    assert session.begun("two") == ""


def test_one_that_nothing_uses_makes_room(session: Session) -> None:
    session.runs_whole("one", A)
    session.ask("two", cpus=3)
    eventually((session.runs / "run/two/0/begun").exists)
    assert session.of_cluster("ray-a.1", "end") == "yes"


def test_one_that_is_used_stays_until_it_is_not(session: Session) -> None:
    session.ask("one", A)
    session.begins("one")
    session.ask("two", B)
    session.ask("three")
    # First come, first served.
    assert session.begun("three") == session.begun("two") == ""
    session.ends("one")
    assert session.begins("two") == "ray-b.2 0"


def test_one_that_has_ended_is_followed_and_why_is_known(session: Session) -> None:
    session.runs_whole("one", A)
    session.kill("ray-a.1")
    assert session.runs_whole("two", A) == "ray-a.2 0"
    assert session.of_cluster("ray-a.2", "former") == "ray-a.1 has ended with status 137"
    assert session.runs_whole("three", A) == "ray-a.2 1"


def test_one_that_is_broken_is_replaced_while_the_step_waits(session: Session) -> None:
    session.ask("one", A)
    session.begins("one")
    session.say("broken ray-a.1")
    following = session.allocation / "clusters" / "ray-a.1" / "next"
    # A line without its end is not read yet.
    eventually(lambda: following.read_text() == f"{session.allocation}/clusters/ray-a.2\n", seconds=30)
    assert session.of_cluster("ray-a.2", "former") == ""
    session.ends("one")
    assert session.runs_whole("two", A) == "ray-a.2 1"


def test_one_that_others_use_is_broken_for_who_says_so_alone(session: Session) -> None:
    session.ask("one", A)
    session.ask("two", A)
    session.begins("two")
    session.say("broken ray-a.1")
    # Another takes it no more, and waits until there is room for its own.
    session.ask("three", A)
    session.ends("one")
    eventually(lambda: session.of_cluster("ray-a.1", "next").endswith("/clusters/ray-a.2"), seconds=30)
    session.ends("two")
    assert session.begins("three").startswith("ray-a.2 ")


def test_what_can_never_run_beside_its_cluster_is_over(session: Session) -> None:
    session.ask("one", "ray-c:3:1:100:0")
    session.ask("two", A, cpus=3)
    for name in ("one", "two"):
        status = session.runs / "run" / name / "0/log/status"
        eventually(lambda status=status: status.exists() and " 78 " in status.read_text())  # type: ignore[misc]


def test_it_ends_with_the_session(session: Session) -> None:
    session.runs_whole("one", A)
    session.say("end")
    assert session.process.wait(60) == 0
    assert session.of_cluster("ray-a.1", "end") == "yes"


def test_it_ends_when_nobody_uses_it(tmp_path: Path) -> None:
    session = Session(tmp_path, idle_seconds=1)
    session.runs_whole("one", A)
    assert session.process.wait(60) == 0
    assert "over 12.r" in session.of_cluster("ray-a.1", "log/status")
