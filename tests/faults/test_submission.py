"""The submission is cut off at its worst moments: whatever arrives late, the payload runs once."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from dagster_slurm.sandbox import LoginNode, Sandbox
from dagster_slurm_sandbox import processes as process_table

from ..support.waiting import at_the_same_time, eventually
from .conftest import Record
from .figures import Figures
from .login import crash_login_node, kill, login_node_with
from .project.plan import Plan
from .proxy import SlowController
from .world import World

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
# Submits, says so, and then stays, so that nothing is recorded: the test comes and ends it.
SLOW_SBATCH = """#!/bin/sh
case " $* " in *" --parsable "*) ;; *) exec /usr/bin/sbatch "$@" ;; esac
/usr/bin/sbatch "$@" || exit
if mkdir "$HOME/{once}" 2>/dev/null; then
    echo "$$ $PPID" >"$HOME/{once}/pids.part"
    mv "$HOME/{once}/pids.part" "$HOME/{once}/pids"
    sleep 300
fi
"""


Finish = Callable[[], Figures]


def test_cut_off(sandbox: Sandbox, tmp_path: Path, record: Record) -> None:
    """The login node crashes for two of them; what both do then takes a minute, in which the others are cut off."""
    with ExitStack() as cleanup:
        trials = Trials(sandbox, tmp_path, cleanup)
        crashed = {
            "login-crashed-in-flight": trials.held_back(Plan("login-crashed-in-flight", lines=60))[1],
            "login-crashed": trials.not_recorded(Plan("login-crashed"))[1],
        }
        crash_login_node(sandbox)
        killed = {"sbatch-killed": trials.sbatch_killed, "shell-killed": trials.shell_killed}

        def trial(row: str) -> None:
            finish = crashed.get(row) or killed[row]()
            record(row, [finish()])

        at_the_same_time(trial, [*crashed, *killed])


class Trials:
    """Runs that were started and whose submission is under way.

    Args:
        sandbox: The cluster.
        directory: Where their files lie.
        cleanup: Ends their processes and login nodes.
    """

    def __init__(self, sandbox: Sandbox, directory: Path, cleanup: ExitStack) -> None:
        self.sandbox = sandbox
        self.directory = directory
        self.cleanup = cleanup

    def sbatch_killed(self) -> Finish:
        controller, finish = self.held_back(Plan("sbatch-killed", lines=60))
        kill(sbatch_of(controller))
        return finish

    def shell_killed(self) -> Finish:
        pids, finish = self.not_recorded(Plan("shell-killed"))
        kill(pids)
        return finish

    def held_back(self, plan: Plan) -> tuple[SlowController, Finish]:
        """A run whose request does not arrive before another job of it runs: a late duplicate."""
        directory = self.directory / plan.name
        directory.mkdir()
        controller = SlowController(self.sandbox, directory)
        self.cleanup.callback(controller.close)
        variables = {"SLURM_CONF": str(controller.slurm_conf)}
        world = self._world(plan, login_node_with(self.sandbox, directory / "login", variables=variables))
        assert controller.held.wait(60.0), "no submission came to the controller"

        def finish() -> Figures:
            job = world.started(plan)
            controller.release()
            eventually(lambda: len(world.jobs_of(plan)) > 1, "the late duplicate")
            world.wait_for_the_end(plan)
            (duplicate,) = {*world.jobs_of(plan)} - {job}
            eventually(lambda: world.jobs_of(plan)[duplicate] == "COMPLETED", "the end of the duplicate at the gate")
            return world.figures(plan)

        return controller, finish

    def not_recorded(self, plan: Plan) -> tuple[list[int], Finish]:
        """A run whose job is submitted and whose id is not recorded: the processes that would do it wait."""
        once = f"once-{plan.name}-{secrets.token_hex(4)}"
        programs = {"sbatch": SLOW_SBATCH.replace("{once}", once)}
        directory = self.directory / plan.name
        world = self._world(plan, login_node_with(self.sandbox, directory / "login", programs=programs))
        pids = self.sandbox.home / once / "pids"
        eventually(pids.exists, "a submission")

        def finish() -> Figures:
            world.wait_for_the_end(plan)
            return world.figures(plan)

        return [int(word) for word in pids.read_text().split()], finish

    def _world(self, plan: Plan, login: AbstractContextManager[LoginNode]) -> World:
        node = self.cleanup.enter_context(login)
        world = World(self.sandbox, self.directory / plan.name / "world", variables=node.env())
        self.cleanup.callback(world.close)
        world.execute("plain_in_process", plan)
        return world


def sbatch_of(controller: SlowController) -> list[int]:
    """The processes whose request is held back there."""

    def is_sbatch(path: Path) -> bool:
        asks_here = process_table.has_variable(path, "SLURM_CONF", str(controller.slurm_conf))
        return asks_here and (path / "comm").read_text().strip() == "sbatch"

    return [process.pid for process in process_table.matching(is_sbatch)]
