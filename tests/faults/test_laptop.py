"""The seed's laptop: a `dagster dev` with a DAGSTER_HOME, in-process executor, that is left and started again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from dagster_slurm.sandbox import Sandbox
from dagster_slurm.sandbox import processes as process_table

from ..support.waiting import at_the_same_time, eventually
from .conftest import ALL, Record
from .deployment import Deployment
from .figures import Figures
from .project.plan import Plan
from .test_everything_killed import reconcile

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
JOB = "plain_in_process"
STOPPED_SECONDS = 120.0 if ALL else 20.0


@contextmanager
def a_laptop(sandbox: Sandbox, directory: Path) -> Iterator[Deployment]:
    """A `dagster dev` on a terminal."""
    made = Deployment(sandbox, directory)
    try:
        made.up(on_terminal=True)
        yield made
    finally:
        made.close()


def test_left_and_started_again(sandbox: Sandbox, tmp_path: Path, record: Record) -> None:
    """Four laptops at the same time."""
    stories: Mapping[str, Callable[[Deployment, Plan], None]] = {
        "ctrl-c": interrupt,
        "terminal-closed": close_the_terminal,
        "killed-running": kill_while_the_job_runs,
        "killed-ended": kill_and_come_back_late,
    }

    def tell(row: str) -> None:
        plan = Plan(row, lines=240 if row == "killed-running" else 60, pause_seconds=0.25)
        with a_laptop(sandbox, tmp_path / row) as laptop:
            laptop.launch(JOB, plan)
            laptop.started(plan)
            stories[row](laptop, plan)
            laptop.wait_for_the_end(plan)
            record(row, [laptop.figures(plan)])

    at_the_same_time(tell, stories, most=4)


def interrupt(laptop: Deployment, plan: Plan) -> None:
    laptop.type(b"\x03")
    come_back(laptop)


def close_the_terminal(laptop: Deployment, plan: Plan) -> None:
    laptop.close_terminal()
    come_back(laptop)


def come_back(laptop: Deployment) -> None:
    eventually(lambda: not laptop.serves(), "the end of the webserver")
    laptop.up()


def kill_while_the_job_runs(laptop: Deployment, plan: Plan) -> None:
    laptop.kill_everything()
    laptop.up()
    assert len(laptop.marks(plan)) == 1, "the job has ended before its time"
    reconcile(laptop, laptop.run_of(plan))


def kill_and_come_back_late(laptop: Deployment, plan: Plan) -> None:
    laptop.kill_everything()
    eventually(lambda: len(laptop.marks(plan)) == 2, "the end of the job")
    laptop.up()
    reconcile(laptop, laptop.run_of(plan))


def test_asleep(sandbox: Sandbox, tmp_path: Path, record: Record) -> None:
    """One job ends meanwhile, the other goes on after it."""
    plans = [Plan("asleep-ended"), Plan("asleep-running", lines=int(10 * STOPPED_SECONDS))]
    with a_laptop(sandbox, tmp_path / "asleep") as laptop:
        for plan in plans:
            laptop.launch(JOB, plan)
        for plan in plans:
            laptop.started(plan)
        sleep(laptop, sandbox)
        record("asleep", at_the_same_time(lambda plan: figures_at_the_end(laptop, plan), plans))


def sleep(laptop: Deployment, sandbox: Sandbox) -> None:
    """Stop all of its processes; the connections are dead when they go on."""
    stopped = laptop.processes()
    for process in stopped:
        process_table.send(process, signal.SIGSTOP)
    with sandbox.broken("sshd"):
        time.sleep(STOPPED_SECONDS)
    for process in stopped:
        process_table.send(process, signal.SIGCONT)


def figures_at_the_end(laptop: Deployment, plan: Plan) -> Figures:
    laptop.wait_for_the_end(plan, seconds=300.0)
    return laptop.figures(plan)
