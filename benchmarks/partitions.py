"""All partitions of an asset as one job array, one in a hundred fails, and its retry: what is executed and on record.

    .venv/bin/python benchmarks/partitions.py [NUMBER]

On a sandbox of its own. The payload of every hundredth partition fails in the first run and succeeds in the second.
What is printed is checked as well: exactly those fail, the second run executes exactly those, and every partition is
on record once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import common
import dagster as dg

from dagster_slurm.sandbox import Sandbox

NUMBER = 1000
PAYLOAD = """
key=$DAGSTER_SLURM_PARTITION_KEY
mkdir -p MARKS
: >"$(mktemp -u "MARKS/$key.XXXXXX")"
echo "simulating $key"
case $key in *37) [ -e "MARKS.repaired" ] || exit 3 ;; esac
"""
PROGRAM = """
import os
import sys
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, threaded_executor

KEYS = [f"{number:05}" for number in range(int(os.environ["NUMBER"]))]


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(KEYS), backfill_policy=dg.BackfillPolicy.single_run())
def swept(context: dg.AssetExecutionContext, compute: ComputeResource):
    return compute.run_partitions(context, Path(__file__).with_name("payload.sh")).get_materialize_result()


RANGE = {"dagster/asset_partition_range_start": KEYS[0], "dagster/asset_partition_range_end": KEYS[-1]}
queue = SlurmQueueConfig(partition="compute", mem="10M", cpus=1, time_limit="00:10:00")
compute = ComputeResource(
    mode="slurm",
    slurm=SlurmResource(ssh=SlurmResource.from_env().ssh, queue=queue),
    max_node_hours=1000,
)
defs = dg.Definitions(
    assets=[swept],
    jobs=[dg.define_asset_job("all", "*", tags=RANGE)],
    resources={"compute": compute},
    executor=threaded_executor,
)


def all_job():
    return defs.resolve_job_def("all")


if __name__ == "__main__":
    with dg.DagsterInstance.get() as instance:
        # A backfill gives its range to the run, and Dagster's daemon and UI to its retry.
        again = dg.ReexecutionOptions.from_failure(sys.argv[1], instance) if len(sys.argv) > 1 else None
        done = dg.execute_job(
            dg.reconstructable(all_job),
            instance=instance,
            reexecution_options=again,
            raise_on_error=False,
            tags=RANGE,
        )
        sys.exit(0 if done.success else 1)
"""


@dataclass(frozen=True)
class Run:
    """One run, in a process of its own; times in seconds."""

    succeeded: bool
    wall: float
    cpu: float
    mebibytes: float
    submissions: int
    executed: Counter[str]


class World:
    """The project, its Dagster instance, and what the payloads leave on the cluster."""

    def __init__(self, sandbox: Sandbox, number: int, directory: Path) -> None:
        self._sandbox, self._number, self._directory = sandbox, number, directory
        self._marks = sandbox.home / f"marks-{time.monotonic_ns()}"
        (directory / "program.py").write_text(PROGRAM)
        (directory / "payload.sh").write_text(PAYLOAD.replace("MARKS", str(self._marks)))
        self._home = common.make_dagster_home(directory)

    def run(self, *again: str) -> Run:
        """Run all partitions, or retry a run."""
        before, submissions = self._executed(), self._submissions()
        environment = {
            **os.environ,
            **self._sandbox.env(),
            "NUMBER": str(self._number),
            "DAGSTER_HOME": str(self._home),
            "DAGSTER_SLURM_SSH_CONTROL_DIR": str(self._directory / "c"),
        }
        argv = [sys.executable, str(self._directory / "program.py"), *again]
        began = time.monotonic()
        with (self._directory / "log").open("ab") as log:
            process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
            _, status, used = os.wait4(process.pid, 0)
        return Run(
            status == 0,
            time.monotonic() - began,
            used.ru_utime + used.ru_stime,
            used.ru_maxrss / 1024,
            self._submissions() - submissions,
            self._executed() - before,
        )

    def repair(self) -> None:
        """Let the payloads that failed succeed."""
        self._sandbox.run(["touch", f"{self._marks}.repaired"])

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self._home))

    def recorded(self, run_id: str) -> Counter[str]:
        """How often each partition is on record in a run."""
        entries = self.instance().all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        return Counter(str(each.asset_materialization.partition) for each in entries if each.asset_materialization)

    def _executed(self) -> Counter[str]:
        if not self._marks.exists():
            return Counter()
        return Counter(name.name.split(".")[0] for name in self._marks.iterdir())

    def _submissions(self) -> int:
        return self._sandbox.rpc_counts().get(common.SUBMISSION, 0)


def main() -> None:
    """Run, check and print."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else NUMBER
    keys = {f"{each:05}" for each in range(number)}
    failing = {key for key in keys if key.endswith("37")}
    config = common.wide(os.environ.get(common.SANDBOX_VARIABLE, "partitions"))
    with (
        common.running_sandbox(config) as sandbox,
        tempfile.TemporaryDirectory(prefix="partitions-", dir="/tmp") as directory,
    ):
        world = World(sandbox, number, Path(directory))
        first = world.run()
        (run,) = world.instance().get_runs()
        world.repair()
        second = world.run(run.run_id)
        newest = world.instance().get_runs()[0]
        records = [world.recorded(run.run_id), world.recorded(newest.run_id)]
    assert not first.succeeded and second.succeeded
    assert first.executed == Counter(keys) and records[0] == Counter(keys - failing)
    assert second.executed == Counter(failing) and records[1] == Counter(failing)
    common.print_table(
        f"{number:,} partitions as one array, and the retry of what failed",
        COLUMNS,
        [
            _row("run", first, records[0]),
            _row("retry", second, records[1]),
        ],
    )


COLUMNS = ["", "sbatch", "executed", "on record", "failed", "wall, s", "CPU, s", "MiB"]


def _row(name: str, run: Run, recorded: Counter[str]) -> list[str]:
    executed, on_record = run.executed.total(), recorded.total()
    numbers = [run.submissions, executed, on_record, executed - on_record]
    return [name, *map(str, numbers), f"{run.wall:.1f}", f"{run.cpu:.1f}", f"{run.mebibytes:.0f}"]


if __name__ == "__main__":
    main()
