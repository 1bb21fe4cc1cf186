"""How long a cluster inside a job takes to come up and to go, next to the same steps written by hand, in turns.

    .venv/bin/python benchmarks/launchers.py [--rounds 5] [--only ray]

The exit code is 1 where a launcher takes more than 1.2 times as long to come up as the script by hand, or more than 5 s
to go. Start-up is from the job's first line to the payload's, taking down from the payload's last to the job's. What
stands in a round ran within a minute or two of each other, and is compared by rounds: the load of a machine changes.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import common
import dagster as dg

from dagster_slurm import (
    ComputeLauncher,
    ComputeResource,
    Hook,
    LaunchPlan,
    Payload,
    Place,
    RayLauncher,
    SlurmQueueConfig,
    SlurmResource,
    SparkLauncher,
)
from dagster_slurm.sandbox import Sandbox, SandboxConfig
from dagster_slurm_sandbox import state as states

PROGRAMS = Path(__file__).resolve().parent / "programs"
NODES = {"nodes": 3, "cpus": 2, "no_kill": True}
OPTIONS = ("--nodes=3", "--ntasks-per-node=1", "--cpus-per-task=2", "--no-kill")
MOST_TIMES, MOST_SECONDS = 1.2, 5.0
# Notes when it begins and ends, in a directory that the job sees.
NOTED = """
import json, os, time
begun = time.time()
{work}
with open("{notes}", "w") as file:
    json.dump([begun, time.time()], file)
"""
CLOCK = """
clock_begin() { printf '%s\\n' "${EPOCHREALTIME/,/.}" >"$clock_file"; }
clock_leave() { printf '%s\\n' "${EPOCHREALTIME/,/.}" >>"$clock_file"; }
"""


@dataclass(frozen=True)
class Times:
    """Of one job, in seconds."""

    up: float
    down: float


@dataclass(frozen=True)
class Family:
    """What is measured side by side.

    Args:
        requirements: Of its environment, as pip has them; the last gives that its name.
        mem: Of each node.
        work: What the payload does, in Python.
        launcher: This project's.
        scripts: Of others, by their names; the first is by hand, with the same steps. Arguments: PYTHON PAYLOAD.
    """

    requirements: Sequence[str]
    mem: str
    work: str
    launcher: ComputeLauncher
    scripts: Mapping[str, str]


RAY = """
import ray
ray.init(log_to_driver=False)
assert sum(node["Alive"] for node in ray.nodes()) == 3
"""
SPARK = """
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
assert spark.range(1000).count() == 1000
spark.stop()
"""
FAMILIES: Mapping[str, Family] = {
    "ray": Family(
        ("dagster-pipes", "numpy", "ray[default]"),
        "2000M",
        RAY,
        RayLauncher(),
        {"by hand": "ray_by_hand.sh", "`ray symmetric-run`": "ray_symmetric.sh"},
    ),
    "spark": Family(("dagster-pipes", "pyspark"), "3000M", SPARK, SparkLauncher(), {"by hand": "spark_by_hand.sh"}),
}


class Site:
    """A sandbox of three nodes, and where its jobs leave their times."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.directory = sandbox.home / "launchers"
        sandbox.run(["mkdir", "-p", str(self.directory)])
        queue = SlurmQueueConfig(partition="compute", time_limit="00:10:00")
        self.slurm = SlurmResource(ssh=common.ssh_of(sandbox), queue=queue)
        self._lay_proc_open()

    def _lay_proc_open(self) -> None:
        """Give nodes the machine's boot id again: where something is mounted over /proc, no user may mount another."""
        state = states.load(self.sandbox.paths)
        assert state is not None
        for name in state.config.node_names:
            enter = ["nsenter", "--mount", f"--target={state.processes[f'slurmd:{name}'].pid}"]
            subprocess.run([*enter, "umount", "-q", "/proc/sys/kernel/random/boot_id"], check=False)

    def by_script(self, family: Family, script: str) -> Times:
        """A job of that script."""
        python = f"{self._environment(family)}/bin/python"
        notes, clock = self._files()
        payload = self.directory / "payload.py"
        self._write(payload, NOTED.format(work=family.work, notes=notes))
        program = self.directory / script
        self._write(program, (PROGRAMS / script).read_text(encoding="utf-8"))
        stamp = f"echo ${{EPOCHREALTIME/,/.}} >>{clock}"
        command = f"{stamp}; bash {shlex.join([str(program), python, str(payload)])}; {stamp}"
        log = clock.with_suffix(".log")
        argv = [
            "sbatch",
            "--wait",
            *OPTIONS,
            f"--mem={family.mem}",
            f"--output={log}",
            f"--chdir={self.directory}",
            f"--wrap=bash -c {shlex.quote(command)}",
        ]
        done = self.sandbox.run(argv, timeout_seconds=300)
        return self._times(notes, clock, done.stderr + (log.read_text(encoding="utf-8") if log.exists() else ""))

    def by_launcher(self, family: Family) -> Times:
        """A step of Dagster."""
        notes, clock = self._files()
        path = common.payload(NOTED.format(work=family.work, notes=notes))
        launcher = Timed(inner=family.launcher, file=str(clock))
        compute = ComputeResource(mode="slurm", slurm=self.slurm, pre_deployed_env_path=self._environment(family))

        @dg.asset
        def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
            run = compute.run(context, path, launcher=launcher, extra_slurm_opts={**NODES, "mem": family.mem})
            return run.get_materialize_result()

        dg.materialize([measured], resources={"compute": compute})
        return self._times(notes, clock, "")

    def _environment(self, family: Family) -> str:
        return self.sandbox.create_environment(family.requirements[-1].partition("[")[0], family.requirements)

    def _files(self) -> tuple[Path, Path]:
        stamp = time.time_ns()
        return self.directory / f"{stamp}.notes", self.directory / f"{stamp}.clock"

    def _write(self, path: Path, text: str) -> None:
        self.sandbox.run(["sh", "-c", 'cat >"$1"', "sh", str(path)], input=text)

    def _times(self, notes: Path, clock: Path, said: str) -> Times:
        if not notes.exists():
            raise RuntimeError(f"The payload has not ended: {said[-3000:]}")
        begun, ended = json.loads(notes.read_text(encoding="utf-8"))
        first, last = map(float, clock.read_text(encoding="utf-8").split())
        return Times(begun - first, last - ended)


class Timed(ComputeLauncher):
    """A launcher with a clock around it."""

    inner: ComputeLauncher
    file: str

    def plan(self, payload: Payload, place: Place) -> LaunchPlan:
        plan = self.inner.plan(payload, place)
        return dataclasses.replace(plan, hooks=(Hook("clock", CLOCK, {"file": self.file}), *plan.hooks))


Found = Mapping[str, Sequence[Times | None]]
"""Of each way the times by rounds; None: it has failed. The first is this project's, the second by hand."""


def measure(site: Site, family: Family, rounds: int) -> Found:
    """Every way, in turns."""
    ways: dict[str, Callable[[], Times]] = {
        "**`dagster-slurm`**": lambda: site.by_launcher(family),
        **{name: (lambda script=script: site.by_script(family, script)) for name, script in family.scripts.items()},
    }
    found: dict[str, list[Times | None]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, start in ways.items():
            try:
                times = start()
            except RuntimeError as error:
                print(f"{number} {name}: {error}", file=sys.stderr, flush=True)
                times = None
            else:
                print(f"{number} {name}: up {times.up:.1f} s, down {times.down:.1f} s", file=sys.stderr, flush=True)
            found[name].append(times)
    return found


def to_hand(found: Found, way: str) -> float:
    """How many times as long a way takes to come up as by hand: the median of the rounds."""
    hand = list(found.values())[1]
    return common.median([one.up / other.up for one, other in zip(found[way], hand, strict=True) if one and other])


def is_kept(found: Found) -> bool:
    """Whether the launcher has come up at all, and stays within the limits."""
    ours = next(iter(found))
    downs = [each.down for each in found[ours] if each]
    return bool(downs) and to_hand(found, ours) <= MOST_TIMES and common.median(downs) <= MOST_SECONDS


def line(found: Found, way: str) -> list[str]:
    """A row of the table."""
    times = [each for each in found[way] if each]
    failed = str(len(found[way]) - len(times))
    if not times:
        return [way, *["-"] * 5, failed]
    ups, downs = [each.up for each in times], [each.down for each in times]
    spans = [f"{min(each):.1f} to {max(each):.1f}" for each in (ups, downs)]
    medians = [f"{common.median(each):.1f}" for each in (ups, downs)]
    return [way, medians[0], spans[0], f"{to_hand(found, way):.2f}", medians[1], spans[1], failed]


def main() -> int:
    """Measure and print; the exit code is 1 where a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=FAMILIES, default=None)
    arguments = parser.parse_args()
    kept = True
    # Not the sandbox of the others: of one node, which is wide.
    with Sandbox(SandboxConfig(name="launchers", user="launchers")).running() as sandbox:
        site = Site(sandbox)
        for name in [arguments.only] if arguments.only else FAMILIES:
            before = os.getloadavg()[0]
            found = measure(site, FAMILIES[name], arguments.rounds)
            title = f"{name.capitalize()} on three nodes, median of {arguments.rounds} rounds, load before {before:.1f}"
            header = ["way", "up, s", "least to most", "to by hand", "down, s", "least to most", "failed"]
            common.print_table(title, header, [line(found, way) for way in found])
            kept = kept and is_kept(found)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
