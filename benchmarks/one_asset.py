"""One asset whose payload takes 2.5 s, next to what one would do by hand with `ssh` and `sbatch`.

    .venv/bin/python benchmarks/one_asset.py

Every way runs the same payload on the same cluster over a warm connection, one after the other, in turns. Each begins
at a random moment: slurmctld starts jobs once a second, and what follows right after the end of a job would always wait
as long as that job's end left over.
"""

from __future__ import annotations

import contextlib
import io
import random
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import common
import dagster as dg

from dagster_slurm.sandbox import Sandbox

PAYLOAD_SECONDS = 2.5
PAYLOAD = f"""
import time
begun = time.monotonic()
while time.monotonic() - begun < {PAYLOAD_SECONDS}:
    print("working", flush=True)
    time.sleep(0.1)
"""
POLL_SECONDS = 1.0


class ByHand:
    """`ssh` with a ControlMaster, `sbatch`, and waiting for the end."""

    def __init__(self, sandbox: Sandbox, script: Path) -> None:
        env = sandbox.env()
        self._ssh = [
            "ssh",
            *("-i", env["SLURM_EDGE_NODE_KEY_PATH"], "-p", env["SLURM_EDGE_NODE_PORT"]),
            *("-o", f"UserKnownHostsFile={env['SLURM_EDGE_NODE_KNOWN_HOSTS_FILE']}"),
            *("-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", f"ControlPath={script.parent}/%C"),
            f"{env['SLURM_EDGE_NODE_USER']}@{env['SLURM_EDGE_NODE_HOST']}",
        ]
        self._python = f"{sandbox.create_environment('benchmark', ['dagster-pipes'])}/bin/python"
        self._text = script.read_bytes()

    def _run(self, command: str, stdin: bytes = b"") -> str:
        return subprocess.run([*self._ssh, command], input=stdin, capture_output=True, check=True).stdout.decode()

    def _submit(self, *options: str) -> str:
        name = f"by-hand-{time.time_ns()}.py"
        self._run(f"cat > {name}", self._text)
        wrapped = shlex.quote(f"{self._python} {name}")
        return self._run(f"sbatch --parsable --mem=500M {' '.join(options)} --wrap={wrapped}").strip()

    def wait(self) -> None:
        """`sbatch --wait`, which polls with growing pauses."""
        self._submit("--wait")

    def poll(self) -> None:
        """`squeue` every second until the job is gone from it, then `sacct`."""
        job_id = self._submit()
        while self._run(f"squeue --noheader --jobs={job_id} --states=PENDING,RUNNING,COMPLETING").strip():
            time.sleep(POLL_SECONDS)
        self._run(f"sacct --jobs={job_id} --parsable2 --noheader")


PARTS = ("call to submitted", "submitted to started", "started to ended", "ended to return")


class Ours:
    """`compute.run`, and how long its parts take."""

    def __init__(self, sandbox: Sandbox, script: Path, instance: dg.DagsterInstance) -> None:
        # Its run directories stay, and with them the times at which a job began and ended.
        self._compute = common.compute_on(sandbox, debug_mode=True)
        self._home = sandbox.home
        self._script = script
        self._instance = instance
        self.parts: dict[str, list[float]] = {part: [] for part in PARTS}

    def run(self) -> float:
        """Seconds of one call."""
        timed = common.materialize(self._compute, self._script, self._instance)
        lines = self._instance.all_logs(timed.result.run_id)
        submitted = next(each.timestamp for each in lines if each.user_message.startswith("Submitted Slurm job"))
        (status,) = self._home.glob(f"dagster_runs/runs/{timed.result.run_id}/*/0/log/status")
        # `start JOB RESTART TIME NODE`, `end JOB RESTART EXIT_CODE TIME SIZE...`
        marks = {words[0]: words for words in map(str.split, status.read_text().splitlines())}
        started, ended = float(marks["start"][3]), float(marks["end"][4])
        times = [timed.called_at, submitted, started, ended, timed.called_at + timed.wall_seconds]
        for part, before, after in zip(PARTS, times[:-1], times[1:], strict=True):
            self.parts[part].append(after - before)
        return timed.wall_seconds

    def own(self) -> list[float]:
        """The first and the last part, of each call."""
        return [first + last for first, last in zip(self.parts[PARTS[0]], self.parts[PARTS[-1]], strict=True)]


def main() -> None:
    """Run and print."""
    script = common.payload(PAYLOAD)
    with common.running_sandbox() as sandbox, dg.DagsterInstance.local_temp() as instance:
        ours = Ours(sandbox, script, instance)
        by_hand = ByHand(sandbox, script)
        quietly(Ours(sandbox, script, instance).run)
        by_hand.poll()
        logins, channels = sandbox.logins(), sandbox.sessions_opened()
        ways: dict[str, Callable[[], float]] = {
            "compute.run": ours.run,
            "ssh + sbatch, squeue every second": lambda: common.timed(by_hand.poll),
            "ssh + sbatch --wait": lambda: common.timed(by_hand.wait),
        }
        walls: dict[str, list[float]] = {way: [] for way in ways}
        used = {way: [0, 0] for way in ways}
        for _ in range(common.REPETITIONS):
            for way, run in ways.items():
                time.sleep(random.random())
                walls[way].append(quietly(run))
                now = sandbox.logins(), sandbox.sessions_opened()
                used[way][0] += now[0] - logins
                used[way][1] += now[1] - channels
                logins, channels = now
    wall = common.median(walls["compute.run"])
    rows = [
        [
            way,
            f"{common.median(values):.2f}",
            f"{common.median(values) - PAYLOAD_SECONDS:.2f}",
            f"{common.median(values) / wall:.2f}",
            *(f"{count / common.REPETITIONS:g}" for count in used[way]),
        ]
        for way, values in walls.items()
    ]
    common.print_table(
        f"One asset, payload of {PAYLOAD_SECONDS} s, warm connection, median of {common.REPETITIONS}",
        ["way", "wall, s", "longer than the payload, s", "ratio to compute.run", "logins", "channels"],
        rows,
    )
    common.print_table(
        f"The parts of `compute.run`, seconds, median of {common.REPETITIONS}",
        [*PARTS, "of these ours: the first and the last"],
        [[*(f"{common.median(values):.3f}" for values in ours.parts.values()), f"{common.median(ours.own()):.3f}"]],
    )


def quietly(function: Callable[[], float]) -> float:
    """Run without the payload's and Dagster's output in the table's way."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function()


if __name__ == "__main__":
    main()
