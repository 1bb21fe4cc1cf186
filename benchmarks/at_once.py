"""Many assets at once, 10 s of payload each: `threaded_executor` against `sbatch` and `squeue` by hand.

    .venv/bin/python benchmarks/at_once.py [NUMBER ...]

On a sandbox of its own, wide enough for all of them. By hand means on the login node, without Dagster: the floor.
Every payload prints a line a second with the time of its printing; its delay is the time until that line is in the
file of the step's compute log, which is looked at every 50 ms.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import common
from arrivals import Arrivals

from dagster_slurm.sandbox import Sandbox, SandboxConfig

PAYLOAD_SECONDS = 10
NUMBERS = (1, 10, 50, 100, 200)
# `read` from a pipe that nobody writes to: a pause without a process.
PAYLOAD = f"""
exec 9<> <(:)
for second in $(seq {PAYLOAD_SECONDS}); do
    echo "sent $EPOCHREALTIME"
    read -rt 1 -u 9
done
echo done
"""
PROGRAM = """
import os
from pathlib import Path

import dagster as dg

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, threaded_executor

HERE = Path(__file__).parent


def made(number):
    @dg.asset(name=f"asset_{number}")
    def one(context: dg.AssetExecutionContext, compute: ComputeResource):
        return compute.run(context, HERE / "payload.sh").get_materialize_result()

    return one


queue = SlurmQueueConfig(partition="compute", mem="10M", cpus=1, time_limit="00:10:00")
compute = ComputeResource(mode="slurm", slurm=SlurmResource(ssh=SlurmResource.from_env().ssh, queue=queue))
defs = dg.Definitions(
    assets=[made(number) for number in range(int(os.environ["NUMBER"]))],
    jobs=[dg.define_asset_job("all", "*")],
    resources={"compute": compute},
    executor=threaded_executor,
)
"""
# By type, `sdiag` counts all users, of whom there is one here. What nodes, jobs and `sdiag` itself send is no query.
QUERIES = re.compile(
    r"REQUEST_(JOB_(INFO|USER_INFO|WILL_RUN|STEP_INFO)|NODE_INFO|PARTITION_INFO|BUILD_INFO|KILL|CANCEL)"
)
BY_HAND = f"""
for n in $(seq {{number}}); do
    sbatch --parsable --mem=10M --cpus-per-task=1 --output=/dev/null --wrap='sleep {PAYLOAD_SECONDS}' >/dev/null || exit
done
while [ -n "$(squeue --me --noheader)" ]; do sleep 1; done
"""


def by_hand(sandbox: Sandbox, number: int) -> float:
    def run() -> None:
        assert sandbox.run(["bash", "-c", BY_HAND.format(number=number)]).returncode == 0

    return common.timed(run)


@dataclass(frozen=True)
class Measured:
    """What one run has cost; times in seconds."""

    wall: float
    cpu: float
    mebibytes: float
    logins: int
    channels: int
    calls: Mapping[str, int]
    delays: list[float]

    @property
    def submissions(self) -> int:
        return self.calls.get(common.SUBMISSION, 0)

    @property
    def queries(self) -> int:
        return sum(number for kind, number in self.calls.items() if QUERIES.match(kind))


def with_dagster(sandbox: Sandbox, number: int) -> Measured:
    with tempfile.TemporaryDirectory(prefix="at-once-", dir="/tmp") as directory:
        here = Path(directory)
        (here / "program.py").write_text(PROGRAM)
        (here / "payload.sh").write_text(PAYLOAD)
        home = common.make_dagster_home(here)
        variables = {
            **os.environ,
            **sandbox.env(),
            "NUMBER": str(number),
            "DAGSTER_HOME": str(home),
            "DAGSTER_SLURM_SSH_CONTROL_DIR": str(here / "c"),
        }
        argv = [sys.executable, "-m", "dagster", "job", "execute", "-f", str(here / "program.py"), "-j", "all"]
        logins, sessions, calls = sandbox.logins(), sandbox.sessions_opened(), sandbox.rpc_counts()
        with Arrivals(home) as arrivals:
            began = time.monotonic()
            process = subprocess.Popen(argv, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            wall = time.monotonic() - began
        assert status == 0, "the run has failed"
        after = sandbox.rpc_counts()
        return Measured(
            wall,
            used.ru_utime + used.ru_stime,
            used.ru_maxrss / 1024,
            sandbox.logins() - logins,
            sandbox.sessions_opened() - sessions,
            {kind: after[kind] - calls.get(kind, 0) for kind in after if after[kind] != calls.get(kind, 0)},
            arrivals.delays,
        )


def main() -> None:
    """Run and print."""
    numbers = [int(word) for word in sys.argv[1:]] or list(NUMBERS)
    config = SandboxConfig(name="at-once", user="atonce", nodes=1, cpus_per_node=256)
    rows, kinds = [], []
    with common.running_sandbox(config) as sandbox:
        for number in numbers:
            floor = by_hand(sandbox, number)
            measured = with_dagster(sandbox, number)
            rows.append(_row(number, floor, measured))
            kinds += [[str(number), kind, str(calls)] for kind, calls in sorted(measured.calls.items())]
    common.print_table(f"Jobs of {PAYLOAD_SECONDS} s at once", COLUMNS, rows)
    common.print_table("Calls of the controller, all users'; `total` the user's", ["jobs", "kind", "calls"], kinds)


COLUMNS = [
    *("jobs", "by hand, s", "wall, s", "to the floor", "CPU, s", "MiB", "logins", "channels"),
    *("submissions", "queries", "queries each second", "lines", "delay p50, s", "delay p99, s"),
]


def _row(number: int, floor: float, measured: Measured) -> list[str]:
    return [
        str(number),
        f"{floor:.1f}",
        f"{measured.wall:.1f}",
        f"{measured.wall / floor:.2f}",
        f"{measured.cpu:.1f}",
        f"{measured.mebibytes:.0f}",
        str(measured.logins),
        str(measured.channels),
        str(measured.submissions),
        str(measured.queries),
        f"{measured.queries / measured.wall:.2f}",
        str(len(measured.delays)),
        f"{common.median(measured.delays):.2f}",
        f"{common.percentile(measured.delays, 0.99):.2f}",
    ]


if __name__ == "__main__":
    main()
