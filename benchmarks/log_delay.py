"""How long a line printed on the node takes to reach Dagster: 200 lines, 10 a second.

    .venv/bin/python benchmarks/log_delay.py

Each line carries the time it was printed; the sandbox's nodes and Dagster share one clock. What arrives is
read from the descriptor that Dagster captures for the step's compute log. A user who watches by hand would
run `ssh host tail -f`, which is timed for the same job.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time

import common
import dagster as dg

LINES = 200
PAYLOAD = f"""
import time
for number in range({LINES}):
    print(f"sent {{time.time():.6f}}", flush=True)
    time.sleep(0.1)
"""


def delays_through_dagster(sandbox: common.Sandbox) -> list[float]:
    """The delay of every line, in seconds, at the step's stdout."""
    reading, writing = os.pipe()
    delays: list[float] = []
    watch = threading.Thread(target=_note_arrivals, args=(reading, delays))
    watch.start()
    terminal = os.dup(1)
    os.dup2(writing, 1)
    try:
        with dg.DagsterInstance.ephemeral() as instance:
            common.materialize(common.compute_on(sandbox), common.payload(PAYLOAD), instance)
    finally:
        os.dup2(terminal, 1)
        os.close(writing)
        watch.join()
    return delays


def _note_arrivals(descriptor: int, delays: list[float]) -> None:
    rest = b""
    while block := os.read(descriptor, 1 << 16):
        now = time.time()
        *lines, rest = (rest + block).split(b"\n")
        delays += [now - float(line.split()[1]) for line in lines if line.startswith(b"sent ")]


def delays_through_tail(sandbox: common.Sandbox) -> list[float]:
    """The same with `sbatch` and `tail -f` over ssh."""
    env = sandbox.env()
    ssh = [
        *("ssh", "-i", env["SLURM_EDGE_NODE_KEY_PATH"], "-p", env["SLURM_EDGE_NODE_PORT"]),
        *("-o", f"UserKnownHostsFile={env['SLURM_EDGE_NODE_KNOWN_HOSTS_FILE']}"),
        f"{env['SLURM_EDGE_NODE_USER']}@{env['SLURM_EDGE_NODE_HOST']}",
    ]
    submit = "cat > delay.py; : > delay.out; sbatch --wrap='python3 delay.py' --output=delay.out"
    script = f"{submit}; timeout {LINES // 10 + 3} tail -f delay.out"
    delays: list[float] = []
    tail = subprocess.Popen([*ssh, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if tail.stdin is None or tail.stdout is None:
        raise RuntimeError("no pipes")
    tail.stdin.write(PAYLOAD.encode())
    tail.stdin.close()
    _note_arrivals(tail.stdout.fileno(), delays)
    tail.wait()
    return delays


def main() -> None:
    """Run and print."""
    with common.running_sandbox() as sandbox:
        ways = {
            "compute.run": delays_through_dagster(sandbox),
            "ssh + tail -f": delays_through_tail(sandbox),
        }
    ours = common.median(ways["compute.run"])
    rows = [
        [
            way,
            len(delays),
            f"{common.median(delays):.3f}",
            f"{common.percentile(delays, 0.99):.3f}",
            f"{max(delays):.3f}",
            f"{common.median(delays) / ours:.2f}",
        ]
        for way, delays in ways.items()
    ]
    common.print_table(
        f"Delay of a printed line, {LINES} lines, 10 a second",
        ["way", "lines", "median, s", "99th percentile, s", "longest, s", "median to compute.run's"],
        rows,
    )


if __name__ == "__main__":
    main()
