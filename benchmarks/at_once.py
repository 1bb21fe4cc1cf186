"""Many assets at once, 10 s of payload each: `threaded_executor` against `sbatch` and `squeue` by hand.

    .venv/bin/python benchmarks/at_once.py [NUMBER ...]

On a sandbox of its own, wide enough for all of them. By hand means on the login node, without Dagster: the floor.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

from dagster_slurm.sandbox import Sandbox, SandboxConfig

PAYLOAD_SECONDS = 10
NUMBERS = (1, 10, 50, 100, 200)
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


def with_dagster(sandbox: Sandbox, number: int) -> list[str]:
    """Wall time, CPU and memory of the control side, logins, and calls of the controller."""
    with tempfile.TemporaryDirectory(prefix="at-once-", dir="/tmp") as directory:
        here = Path(directory)
        (here / "program.py").write_text(PROGRAM)
        (here / "payload.sh").write_text(f"sleep {PAYLOAD_SECONDS}\n")
        (here / "home").mkdir()
        variables = {
            **os.environ,
            **sandbox.env(),
            "NUMBER": str(number),
            "DAGSTER_HOME": str(here / "home"),
            "DAGSTER_SLURM_SSH_CONTROL_DIR": str(here / "c"),
        }
        argv = [sys.executable, "-m", "dagster", "job", "execute", "-f", str(here / "program.py"), "-j", "all"]
        logins, calls = sandbox.logins(), sandbox.rpc_counts()["total"]
        began = time.monotonic()
        process = subprocess.Popen(argv, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        assert status == 0, "the run has failed"
        calls = sandbox.rpc_counts()["total"] - calls
        return [
            f"{wall:.1f}",
            f"{used.ru_utime + used.ru_stime:.1f}",
            f"{used.ru_maxrss / 1024:.0f}",
            str(sandbox.logins() - logins),
            f"{calls / wall:.1f}",
        ]


def main() -> None:
    """Run and print."""
    numbers = [int(word) for word in sys.argv[1:]] or list(NUMBERS)
    sandbox = Sandbox(SandboxConfig(name="wide", user="widener", nodes=1, cpus_per_node=256))
    was_up = sandbox.is_up()
    sandbox.up()
    rows = []
    try:
        for number in numbers:
            floor = by_hand(sandbox, number)
            measured = with_dagster(sandbox, number)
            rows.append([str(number), f"{floor:.1f}", *measured, f"{float(measured[0]) / floor:.2f}"])
    finally:
        if not was_up:
            sandbox.down()
    columns = ["jobs", "by hand, s", "wall, s", "CPU, s", "MiB", "logins", "RPCs each second", "to the floor"]
    common.print_table(f"Jobs of {PAYLOAD_SECONDS} s at once", columns, rows)


if __name__ == "__main__":
    main()
