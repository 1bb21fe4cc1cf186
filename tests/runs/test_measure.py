"""The way of one run through the package, measured: a figure that grows fails, one that falls is written down here."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.sandbox import Sandbox
from tests.support.instances import empty_instance
from tests.support.traced import name_of, watched_requests
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.process]
ROOT = Path(__file__).parents[2]
# On the step's own thread, but for functions. Those of other threads vary with what else the machine does. Stations
# until sbatch are 100 in a run that nothing disturbs; 103 were seen once beside other tests.
SUBMITTED = {"files": 35, "stations": 104, "functions": 483}
ENDED = {"files": 45, "stations": 230, "functions": 842}
# The loop turns once for each piece of news: as often as the machine lets the job and the looks at it fall together.
STATIONS_A_TURN = 12
# But for looks at the files of the job, which are as many as it runs long.
ROUND_TRIPS = {"facts": 1, "look": 1, "submit": 1}
# Following a job; having sbatch say whether it would take one, and sending what is large before, or all of it.
BEGINNINGS = {"poll", "sbatch", ":", "submit"}


def test_of_one_run(sandbox: Sandbox, tmp_path: Path) -> None:
    """Of one that is watched for three seconds, in a process that has done nothing else.

    Another process has done the same just before: it has logged in, and has had sbatch say whether it takes such a job.
    """
    argv = [sys.executable, "-m", "tests.support.traced", f"~/test-runs/{tmp_path.name}"]
    environment = {**os.environ, **sandbox.env()}
    for _ in range(2):
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    for when, most in (("submitted", SUBMITTED), ("ended", ENDED)):
        figures = found[when]
        figures["stations"] -= STATIONS_A_TURN * figures.pop("turns")
        assert {name: value for name, value in figures.items() if value > most[name]} == {}, when
    asked = found["asked"]
    assert {name: asked.pop(name, 0) for name in ROUND_TRIPS} == ROUND_TRIPS
    assert asked.pop("poll") <= 40
    # Its end line is good: nobody waits for sacct, nor asks it.
    assert asked.pop("sacct", 0) == 0
    assert asked.pop("squeue", 0) <= 3
    assert asked == {}


class Retried:
    """A step whose first try leaves something behind, and whose second one finds it."""

    def __init__(self, sandbox: Sandbox, compute: ComputeResource, directory: Path) -> None:
        self.sandbox = sandbox
        self.compute = compute
        self.payload = directory / "payload.sh"
        self.payload.write_text("sleep 1\n")

    def asked(self, leave: Callable[["Retried", dg.AssetExecutionContext], object]) -> list[str]:
        """What the second try asks before it follows a job or begins with one."""
        asked: list[str] = []

        @dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
        def retried(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            if context.retry_number == 0:
                leave(self, context)
                raise KilledError
            with watched_requests(lambda script, args: asked.append(name_of(script, args))):
                return self.compute.run(context, self.payload).get_materialize_result()

        with empty_instance() as instance:
            assert dg.materialize([retried], instance=instance).success
        return list(takewhile(lambda name: name not in BEGINNINGS, asked))

    def killed_at(self, place: str, context: dg.AssetExecutionContext) -> None:
        """As if the process ended there, with whatever it has done by then."""

        def end(*args: object, **options: object) -> None:
            raise KilledError

        with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
            patch.setattr(f"dagster_slurm.work.{place}", end)
            self.compute.run(context, self.payload)

    def all_ended(self) -> None:
        """Slurm and its accounting have seen the end of all jobs."""
        command = "squeue --noheader --me; sacct --noheader --allocations --starttime=now-1hour --state=PD,R"
        eventually(lambda: not self.sandbox.run(["sh", "-c", command]).stdout.strip())


class KilledError(Exception):
    """The end of a process, as the code in it sees it."""


def made(retried: Retried, context: dg.AssetExecutionContext) -> None:
    # What is large is sent before the submission.
    retried.payload.write_text(f"sleep 1\n# {'x' * 300_000}\n")
    retried.killed_at("on_cluster.submit_once", context)


def made_of_another(retried: Retried, context: dg.AssetExecutionContext) -> None:
    made(retried, context)
    retried.payload.write_text("sleep 1; true\n")


def live(retried: Retried, context: dg.AssetExecutionContext) -> None:
    retried.payload.write_text("sleep 10\n")
    retried.killed_at("on_cluster.ClusterCarriers.watch", context)


def ended_well(retried: Retried, context: dg.AssetExecutionContext) -> None:
    retried.killed_at("on_cluster.ClusterCarriers.watch", context)
    retried.all_ended()


def ended_badly(retried: Retried, context: dg.AssetExecutionContext) -> None:
    retried.payload.write_text("exit 3\n")
    ended_well(retried, context)
    retried.payload.write_text("true\n")


def ended_badly_and_closed(retried: Retried, context: dg.AssetExecutionContext) -> None:
    retried.payload.write_text("exit 3\n")
    with suppress(dg.Failure):
        retried.compute.run(context, retried.payload)
    retried.payload.write_text("true\n")


@pytest.mark.parametrize(
    ("leave", "actions"),
    [
        (lambda retried, context: None, []),
        (made, []),
        (live, []),
        (ended_well, []),
        (ended_badly_and_closed, []),
        # What is out of date is closed before there is another: that is done, and not asked.
        (made_of_another, ["close"]),
        (ended_badly, ["close"]),
    ],
    ids=["nothing known", "made", "live", "ended well", "ended badly and closed", "made of another", "ended badly"],
)
def test_a_retry_finds_its_job_in_one_round_trip(
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    leave: Callable[[Retried, dg.AssetExecutionContext], object],
    actions: list[str],
) -> None:
    for name, value in sandbox.env().items():
        monkeypatch.setenv(name, value)
    queue = SlurmQueueConfig(partition="compute", mem="100M", cpus=1, time_limit="00:05:00")
    slurm = SlurmResource(ssh=SSHConnectionResource.from_env(), queue=queue, remote_base="~/test-retried")
    retried = Retried(sandbox, ComputeResource(mode="slurm", slurm=slurm), tmp_path)
    # What is asked once in a process, by whoever comes first.
    slurm.connect().cluster.facts()
    assert retried.asked(leave) == ["look", *actions]
