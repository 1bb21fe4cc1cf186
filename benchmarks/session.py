"""Steps of a session, next to raw `srun --exact` in an allocation, to HyperQueue in one, and to empty assets.

    .venv/bin/python benchmarks/session.py

HyperQueue is installed from PyPI for this benchmark alone; where that fails, its rows are missing.

One after the other: from the call to the payload's first line, in a warm session; the raw way is a loop in a batch
script, from before `srun` to the same line. At once: a run of as many assets, next to the same run of assets that do
nothing and as many raw sruns at once. The payload is of shell, and on one machine all clocks are the same.
"""

import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import common
import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run

from dagster_slurm import ComputeResource, SlurmSessionResource, threaded_executor
from dagster_slurm.errors import SandboxError
from dagster_slurm.sandbox import Sandbox

STEPS = int(os.environ.get("STEPS", "50"))
CPUS = 12
MEM_MIB = 60
SHARE = {"cpus": 1, "mem": f"{MEM_MIB}M"}
_RAW = """#!/bin/bash
#SBATCH --partition=compute --nodes=1 --ntasks=1 --cpus-per-task={cpus} --mem=2G --time=10 --output={log}
unset ${{!SLURM_MEM_*}} ${{!SLURM_CPUS_PER_*}} ${{!SLURM_NTASKS*}} SLURM_TASKS_PER_NODE
one() {{
    began=$EPOCHREALTIME
    srun --exact -N1 -n1 -c1 --mem={mem}M bash -c 'echo "$EPOCHREALTIME"' >>{log}.lines </dev/null
    echo "$began" >>{log}.begun
}}
for _ in $(seq {steps}); do one; done
began=$EPOCHREALTIME
for _ in $(seq {steps}); do one >/dev/null 2>&1 & done
wait
echo "$began $EPOCHREALTIME" >{log}.wall
"""


# Its cluster of one process; what waits for the end of a job there looks each second, so the tasks say when they were.
_HYPERQUEUE = """#!{python}
#SBATCH --partition=compute --nodes=1 --ntasks=1 --cpus-per-task={cpus} --mem=2G --time=10 --output={log}
import time
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

def times(count):
    while len(found := open("{log}.lines").read().split()) < count:
        time.sleep(0.005)
    return list(map(float, found))

def program(job):
    job.program(["bash", "-c", 'echo "$EPOCHREALTIME" >>{log}.lines'])

open("{log}.lines", "w").close()
with LocalCluster() as cluster, open("{log}.begun", "w") as begun:
    cluster.start_worker(WorkerConfig(cores={cpus}))
    client = cluster.client()
    for number in range({steps}):
        print(time.time(), file=begun, flush=True)
        job = Job()
        program(job)
        client.submit(job)
        times(number + 1)
    began = time.time()
    job = Job()
    for _ in range({steps}):
        program(job)
    client.submit(job)
    print(began, times(2 * {steps})[-1], file=open("{log}.wall", "w"))
"""


class Lines:
    """Where the payloads' first lines go.

    Args:
        sandbox: The cluster, whose home directories are this machine's.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.path = sandbox.home / f"lines-{time.time_ns()}"
        self.payload = Path(tempfile.mkdtemp(prefix="benchmark-")) / "payload.sh"
        self.payload.write_text(f'echo "$EPOCHREALTIME" >>{self.path}\n', encoding="utf-8")

    def times(self) -> list[float]:
        """Their times, in seconds since 1970."""
        return [float(line) for line in self.path.read_text().split()] if self.path.exists() else []


def session_on(sandbox: Sandbox, name: str) -> ComputeResource:
    """A compute resource whose calls are steps of a session."""
    plain = common.compute_on(sandbox)
    shape = SlurmSessionResource(
        num_nodes=1, cpus_per_task=CPUS, mem="2G", time_limit="00:30:00", max_concurrent_jobs=CPUS, name=name
    )
    return ComputeResource(mode="slurm-session", slurm=plain.slurm, session=shape)


def one_by_one(compute: ComputeResource, lines: Lines, instance: dg.DagsterInstance) -> list[float]:
    """Seconds from each call to its payload's first line."""
    calls: list[float] = []

    @dg.asset
    def stepped(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        for number in range(STEPS + 1):
            calls.append(time.time())
            done = compute.run(
                context, lines.payload, name=str(number), extra_slurm_opts={"cpus": 1, "mem": f"{MEM_MIB}M"}
            )

        return done.get_materialize_result()

    dg.materialize([stepped], resources={"compute": compute}, instance=instance)
    # The first one waits for the allocation.
    return [at - call for call, at in zip(calls[1:], lines.times()[1:], strict=True)]


def at_once(compute: ComputeResource | None, lines: Lines, instance: dg.DagsterInstance) -> float:
    """Seconds of a run of as many assets; without a resource, of assets that do nothing."""

    def asset(number: int) -> dg.AssetsDefinition:
        @dg.asset(name=f"step_{number}")
        def one(context: dg.AssetExecutionContext, compute: dg.ResourceParam[object]) -> dg.MaterializeResult:
            if isinstance(compute, ComputeResource):
                return compute.run(context, lines.payload, extra_slurm_opts=SHARE).get_materialize_result()
            return dg.MaterializeResult()

        return one

    resource = compute or dg.ResourceDefinition.hardcoded_resource("nothing")
    definitions = dg.Definitions(
        assets=[asset(number) for number in range(STEPS)],
        jobs=[dg.define_asset_job("everything", "*")],
        resources={"compute": resource},
        executor=threaded_executor,
    )
    job = definitions.resolve_job_def("everything")
    created = instance.create_run_for_job(job_def=job)
    # As a run worker does: `execute_in_process` takes one step after the other.
    return common.timed(lambda: execute_run(InMemoryJob(job), created, instance))


def by_hand(sandbox: Sandbox, name: str, text: str, **values: str) -> tuple[list[float], float]:
    """As `one_by_one`, and the wall time of as many at once, in an allocation of its own.

    Args:
        sandbox: The cluster.
        name: Of its files.
        text: The batch script.
        values: What stands in it besides.
    """
    log = sandbox.home / f"{name}-{time.time_ns()}"
    script = text.format(cpus=CPUS, mem=MEM_MIB, steps=STEPS, log=log, **values)
    sandbox.run(["sbatch", "--wait"], input=script, timeout_seconds=600)
    lines, begun = ([float(each) for each in Path(f"{log}.{what}").read_text().split()] for what in ("lines", "begun"))
    began, ended = map(float, Path(f"{log}.wall").read_text().split())
    return [at - call for call, at in zip(begun[:STEPS], lines[:STEPS], strict=True)], ended - began


def hyperqueue(sandbox: Sandbox) -> tuple[list[float], float] | None:
    """The same of HyperQueue; None where it cannot be installed."""
    try:
        path = sandbox.create_environment("hyperqueue", ["hyperqueue"])
    except SandboxError:
        return None
    return by_hand(sandbox, "hyperqueue", _HYPERQUEUE, python=f"{path}/bin/python")


def main() -> None:
    """Run and print."""
    with common.running_sandbox(common.wide("sessions")) as sandbox, dg.DagsterInstance.local_temp() as instance:
        warm, many = Lines(sandbox), Lines(sandbox)
        compute = session_on(sandbox, "benchmark")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            delays_raw, wall_raw = by_hand(sandbox, "raw", _RAW)
            queued = hyperqueue(sandbox)
            before = sandbox.rpc_counts()
            delays = one_by_one(compute, warm, instance)
            after = sandbox.rpc_counts()
            empty = at_once(None, many, instance)
            wall = at_once(compute, many, instance)
    asked = {
        name: (after.get(name, 0) - before.get(name, 0))
        for name in ("REQUEST_JOB_STEP_CREATE", "REQUEST_STEP_COMPLETE", "REQUEST_SUBMIT_BATCH_JOB", "REQUEST_JOB_INFO")
    }
    common.print_table(
        f"{STEPS} steps one after the other: seconds to the payload's first line",
        ["way", "median", "90 %", "most"],
        [
            [way, *(f"{value:.3f}" for value in (common.median(each), common.percentile(each, 0.9), max(each)))]
            for way, each in (
                ("compute.run in a warm session", delays),
                ("srun --exact in an allocation", delays_raw),
                *([("HyperQueue in an allocation", queued[0])] if queued else []),
            )
        ],
    )
    common.print_table(
        f"{STEPS} at once on {CPUS} CPUs",
        ["way", "wall, s", "ratio to the sum of the other two"],
        [
            ["a session", f"{wall:.2f}", f"{wall / (empty + wall_raw):.2f}"],
            ["empty assets", f"{empty:.2f}", ""],
            ["raw sruns", f"{wall_raw:.2f}", ""],
            *([["HyperQueue", f"{queued[1]:.2f}", ""]] if queued else []),
        ],
    )
    print(f"Requests to the controller for {STEPS + 1} steps: {asked}", file=sys.stdout)


if __name__ == "__main__":
    main()
