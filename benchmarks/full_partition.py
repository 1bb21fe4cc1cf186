"""Steps of a session and jobs, one after the other, on a partition that jobs of others keep full.

    .venv/bin/python benchmarks/full_partition.py

Others have a job of all CPUs at any time, each of some seconds, and two more in the queue, as long as this runs. So
whatever is submitted waits for its turn: each of the jobs, and of the session its allocation alone.
"""

import contextlib
import io
import os
import threading
import time

import common
import dagster as dg
from session import CPUS, STEPS, Lines, session_on

from dagster_slurm import ComputeResource
from dagster_slurm.sandbox import Sandbox, SandboxConfig

BUSY_SECONDS = int(os.environ.get("BUSY_SECONDS", "4"))
_WAITING = 2
_CONFIG = SandboxConfig(name="full", user="full", nodes=1, cpus_per_node=CPUS)
_OTHER = f"""#!/bin/sh
#SBATCH --partition=compute --ntasks=1 --cpus-per-task={CPUS} --mem=100M --time=1 --output=/dev/null
sleep {BUSY_SECONDS}
"""


class Others:
    """Jobs that fill the partition, one after the other, while the block lasts."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._submit)

    def _submit(self) -> None:
        while not self._over.is_set():
            names = self._sandbox.run(["squeue", "--noheader", "--name=other", "--states=PENDING", "--format=%i"])
            for _ in range(_WAITING - len(names.stdout.split())):
                self._sandbox.run(["sbatch", "--job-name=other"], input=_OTHER)
            self._over.wait(0.5)

    def __enter__(self) -> None:
        self._thread.start()
        time.sleep(2)

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self._sandbox.run(["scancel", "--name=other"])


def waits(compute: ComputeResource, sandbox: Sandbox, instance: dg.DagsterInstance) -> tuple[float, list[float]]:
    """Seconds of a run of as many calls, and from each call to its payload's first line."""
    lines = Lines(sandbox)
    calls: list[float] = []

    @dg.asset
    def called(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        for number in range(STEPS):
            calls.append(time.time())
            options = {"cpus": 1, "mem": "60M"}
            done = compute.run(context, lines.payload, name=str(number), extra_slurm_opts=options)

        return done.get_materialize_result()

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        wall = common.timed(lambda: dg.materialize([called], resources={"compute": compute}, instance=instance))
    return wall, [at - call for call, at in zip(calls, lines.times(), strict=True)]


def main() -> None:
    """Run and print."""
    rows = []
    with common.running_sandbox(_CONFIG) as sandbox, dg.DagsterInstance.local_temp() as instance:
        ways = {"a session": session_on(sandbox, "full"), "a job each": common.compute_on(sandbox)}
        for way, compute in ways.items():
            with Others(sandbox):
                wall, each = waits(compute, sandbox, instance)
            waited = sum(1 for seconds in each if seconds > 1)
            rows.append([way, f"{wall:.0f}", waited, f"{common.median(each):.2f}", f"{max(each):.1f}"])
            sandbox.run(["scancel", "--me"])
    common.print_table(
        f"{STEPS} calls one after the other; jobs of {BUSY_SECONDS} s of all CPUs keep the partition full",
        ["way", "wall, s", "waits of more than 1 s", "to the first line: median, s", "most, s"],
        rows,
    )


if __name__ == "__main__":
    main()
