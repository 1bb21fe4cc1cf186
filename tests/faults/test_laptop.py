"""The seed's laptop: a `dagster dev` with a DAGSTER_HOME, in-process executor, that is left and started again."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_slurm.sandbox import Sandbox
from dagster_slurm.sandbox import processes as process_table

from .conftest import ALL, Record
from .deployment import Deployment
from .figures import Figures
from .project.plan import Plan
from .test_everything_killed import reconcile
from .waiting import at_the_same_time, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
JOB = "plain_in_process"
STOPPED_SECONDS = 120.0 if ALL else 20.0


@pytest.fixture
def laptop(breakable: Sandbox, tmp_path: Path) -> Iterator[Deployment]:
    """A `dagster dev` on a terminal."""
    made = Deployment(breakable, tmp_path / "laptop")
    made.up(on_terminal=True)
    yield made
    made.close()


@pytest.mark.parametrize("how", ["ctrl-c", "terminal-closed"])
def test_interrupted(laptop: Deployment, record: Record, how: str) -> None:
    plan = Plan(how, lines=80, pause_seconds=0.25)
    laptop.launch(JOB, plan)
    laptop.started(plan)
    if how == "ctrl-c":
        laptop.type(b"\x03")
    else:
        laptop.close_terminal()
    eventually(lambda: not laptop.serves(), "the end of the webserver")
    laptop.up()
    laptop.wait_for_the_end(plan)
    record(how, [laptop.figures(plan)])


@pytest.mark.parametrize("job", ["running", "ended"])
def test_killed(laptop: Deployment, record: Record, job: str) -> None:
    plan = Plan(f"killed-{job}", lines=160 if job == "running" else 40, pause_seconds=0.25)
    laptop.launch(JOB, plan)
    laptop.started(plan)
    laptop.kill_everything()
    if job == "ended":
        eventually(lambda: len(laptop.marks(plan)) == 2, "the end of the job")
    laptop.up()
    assert len(laptop.marks(plan)) == (1 if job == "running" else 2)
    reconcile(laptop, laptop.run_of(plan))
    laptop.wait_for_the_end(plan)
    record(f"killed-{job}", [laptop.figures(plan)])


def test_asleep(laptop: Deployment, breakable: Sandbox, record: Record) -> None:
    """One job ends meanwhile, the other goes on after it."""
    plans = [Plan("asleep-ended"), Plan("asleep-running", lines=int(5 * STOPPED_SECONDS))]
    for plan in plans:
        laptop.launch(JOB, plan)
    for plan in plans:
        laptop.started(plan)
    stopped = laptop.processes()
    for process in stopped:
        process_table.send(process, signal.SIGSTOP)
    with breakable.broken("sshd"):
        time.sleep(STOPPED_SECONDS)
    for process in stopped:
        process_table.send(process, signal.SIGCONT)

    def end(plan: Plan) -> Figures:
        laptop.wait_for_the_end(plan, seconds=300.0)
        return laptop.figures(plan)

    record("asleep", at_the_same_time(end, plans))
