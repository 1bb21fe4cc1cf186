"""The controller holds as many jobs as it may (slurm.conf(5), MaxJobCount), on a cluster of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dagster_slurm.sandbox import Sandbox
from dagster_slurm.sandbox.pytest_plugin import config_for_this_worker

from ..support.waiting import eventually
from .conftest import Record
from .figures import CANCELED
from .login import login_node_with
from .project.plan import Plan
from .world import World

pytestmark = [pytest.mark.cluster, pytest.mark.all_faults, pytest.mark.timeout(900)]
JOB = "plain_in_process"
# slurmctld takes one less than MaxJobCount (22.05.8).
PLACES = 2
ANOTHER = "sbatch --parsable --mem=10M --job-name=another --wrap='sleep 3600'"
# Somebody else takes the last place between the question whether Slurm would take it and the submission.
TOO_LATE = f"""#!/bin/sh
case $* in
*another* | *--test-only*) ;;
*--parsable*)
    [ "$(squeue --me --noheader --name=another | wc -l)" -ge {PLACES} ] || /usr/bin/{ANOTHER} >/dev/null
    ;;
esac
exec /usr/bin/sbatch "$@"
"""
# Longer than an sbatch is waited for that says nothing of a place.
LONG_SECONDS = 70.0
AT_THE_QUESTION, AT_SBATCH = "at-the-question", "at-sbatch"
SAID = {
    AT_THE_QUESTION: "no more jobs now; waiting. sbatch: allocation failure: Resource temporarily unavailable",
    AT_SBATCH: "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
}


class Full:
    """The cluster, and the jobs of others that fill it."""

    def __init__(self, cluster: Sandbox, directory: Path) -> None:
        self.cluster, self.directory = cluster, directory

    def _user(self, command: str) -> str:
        done = self.cluster.run(["sh", "-c", command])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _is_refused(self) -> bool:
        return self.cluster.run(["sbatch", "--test-only", "--mem=10M", "--wrap=true"]).returncode != 0

    def fill(self, but: int = 0) -> None:
        """Take all places but so many. A job that has ended has one until it is forgotten."""
        self.empty()
        for _ in range(PLACES - but):
            self._user(ANOTHER)
        assert self._is_refused() == (not but)

    def empty(self) -> None:
        """End all jobs."""
        self._user("scancel --me")
        eventually(lambda: not self._user("squeue --me --noheader --states=all"), "an empty controller")

    def make_room(self) -> None:
        """End a job of the others."""
        self._user("scancel $(squeue --me --noheader --format=%A --name=another | head -n 1)")

    def jobs(self) -> int:
        """How many jobs there were so far that are not of the others."""
        said = self._user("sacct --allocations --noheader --parsable2 --format=JobName --starttime=now-1hour")
        return len([name for name in said.split("\n")[:-1] if name != "another"])

    @contextmanager
    def run(self, plan: Plan, moment: str) -> Iterator[World]:
        """A run that finds no place at that moment, and has said so."""
        directory = self.directory / plan.name
        programs = {"sbatch": TOO_LATE} if moment == AT_SBATCH else {}
        with login_node_with(self.cluster, directory / "login", programs=programs) as node:
            world = World(self.cluster, directory / "world", variables=node.env())
            try:
                self.fill(but=int(moment == AT_SBATCH))
                world.execute(JOB, plan)
                eventually(lambda: _said(world, plan, SAID[moment]), SAID[moment])
                yield world
            finally:
                world.close()


def _said(world: World, plan: Plan, text: str) -> list[str]:
    return [each for each in world.messages(world.run_of(plan)) if text in each]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Full]:
    config = config_for_this_worker(
        "tests-full", "full", nodes=1, min_job_age_seconds=2, slurm_options={"MaxJobCount": str(PLACES + 1)}
    )
    with Sandbox(config).running() as cluster:
        yield Full(cluster, tmp_path_factory.mktemp("full"))


def test_it_is_said_at_once_waited_for_and_submitted_once(full: Full, record: Record) -> None:
    trials = []
    for moment, seconds in ((AT_THE_QUESTION, 0.0), (AT_SBATCH, LONG_SECONDS)):
        plan, before = Plan(f"full-{moment}", lines=10), full.jobs()
        with full.run(plan, moment) as world:
            time.sleep(seconds)
            assert not world.marks(plan)
            full.make_room()
            world.wait_for_the_end(plan)
            trials.append(world.figures(plan))
            (warning,) = _said(world, plan, SAID[moment])
            assert moment == AT_SBATCH or "MaxJobCount" in warning
        eventually(_is(full.jobs, before + 1), "one job of the run")
    record("max-job-count", trials)


def test_a_termination_meanwhile_ends_the_step(full: Full, record: Record) -> None:
    """What sbatch, which goes on by itself, submits later ends at its gate."""
    trials = []
    for moment in (AT_THE_QUESTION, AT_SBATCH):
        plan, before = Plan(f"terminated-{moment}"), full.jobs()
        with full.run(plan, moment) as world:
            world.instance.report_run_canceling(world.run_of(plan))
            world.wait_for_the_end(plan)
            full.make_room()
            late = int(moment == AT_SBATCH)
            eventually(_is(full.jobs, before + late), "what sbatch has brought")
            full.empty()
            assert not world.marks(plan)
            trials.append(world.figures(plan))
    record("max-job-count-terminated", trials, executed=0, ends=(CANCELED,))


def _is(count: Callable[[], int], expected: int) -> Callable[[], bool]:
    return lambda: count() == expected
