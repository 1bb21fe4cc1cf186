"""The seed's laptop: a `dagster dev` with a DAGSTER_HOME, in-process executor, that is left and started again."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from dagster_slurm.sandbox import Sandbox
from dagster_slurm_sandbox import processes as process_table

from ..support.waiting import at_the_same_time, eventually
from .conftest import Record
from .deployment import Deployment
from .figures import Figures
from .project.plan import Plan
from .test_everything_killed import reconcile
from .world import ALL

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
JOB = "plain_in_process"
STOPPED_SECONDS = 120.0 if ALL else 10.0


@pytest.fixture(scope="module")
def laptop(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A `dagster dev` on a terminal; every test leaves one behind that serves."""
    made = Deployment(sandbox, tmp_path_factory.mktemp("laptop"))
    try:
        made.up(on_terminal=True)
        yield made
    finally:
        made.close()


def launched(laptop: Deployment, *plans: Plan) -> None:
    """Returns when the payloads of all of them run."""
    for plan in plans:
        laptop.launch(JOB, plan)
    for plan in plans:
        laptop.started(plan)


def come_back(laptop: Deployment) -> None:
    eventually(lambda: not laptop.serves(), "the end of the webserver")
    laptop.up(on_terminal=True)


@pytest.mark.all_faults
def test_interrupted(laptop: Deployment, record: Record) -> None:
    plan = Plan("ctrl-c", lines=60, pause_seconds=0.25)
    launched(laptop, plan)
    laptop.type(b"\x03")
    come_back(laptop)
    record("ctrl-c", [figures_at_the_end(laptop, plan)])


@pytest.mark.all_faults
def test_terminal_closed(laptop: Deployment, record: Record) -> None:
    plan = Plan("terminal-closed", lines=60, pause_seconds=0.25)
    launched(laptop, plan)
    laptop.close_terminal()
    come_back(laptop)
    record("terminal-closed", [figures_at_the_end(laptop, plan)])


@pytest.mark.all_faults
def test_killed(laptop: Deployment, record: Record) -> None:
    """Two jobs: one ends before anybody comes back, one goes on."""
    ended, running = Plan("killed-ended"), Plan("killed-running", lines=60, hold=True)
    launched(laptop, ended, running)
    laptop.kill_everything()
    eventually(lambda: len(laptop.marks(ended)) == 2, "the end of the job")
    laptop.up(on_terminal=True)
    assert len(laptop.marks(running)) == 1, "the job has ended before its time"
    reconcile(laptop, laptop.run_of(ended))
    at_the_same_time(
        lambda do: do(), [lambda: reconcile(laptop, laptop.run_of(running)), lambda: let_go(laptop, running)]
    )
    for plan in (ended, running):
        record(plan.name, [figures_at_the_end(laptop, plan)])


def let_go(laptop: Deployment, plan: Plan) -> None:
    """When its run is taken up again."""
    eventually(lambda: len(laptop.runs_of(plan)) > 1, f"a retry of {plan.name}")
    laptop.let_go(plan)


def test_asleep(laptop: Deployment, sandbox: Sandbox, record: Record) -> None:
    """One job ends meanwhile, the other goes on after it."""
    plans = [Plan("asleep-ended"), Plan("asleep-running", lines=int(10 * STOPPED_SECONDS))]
    launched(laptop, *plans)
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
