"""1,000,000 lines at full speed: complete, in order, and in how much memory of the Dagster process.

    .venv/bin/python benchmarks/many_lines.py

Next to it, the same file fetched with `scp` after the job has ended.
"""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import tempfile
import threading
from pathlib import Path

import common
import dagster as dg

LINES = 1_000_000
PAYLOAD = f"""
import sys
for number in range({LINES}):
    sys.stdout.write(f"line {{number}} of the output of a chatty program, as they are\\n")
"""
EXPECTED = hashlib.sha256()
for _number in range(LINES):
    EXPECTED.update(b"line %d of the output of a chatty program, as they are\n" % _number)


def through_dagster(sandbox: common.Sandbox) -> tuple[float, str, int]:
    """Wall time in seconds, digest of what arrived at the step's stdout, and number of its bytes."""
    reading, writing = os.pipe()
    digest, count = hashlib.sha256(), [0]

    def drain() -> None:
        while block := os.read(reading, 1 << 20):
            digest.update(block)
            count[0] += len(block)

    watch = threading.Thread(target=drain)
    watch.start()
    terminal = os.dup(1)
    os.dup2(writing, 1)
    try:
        with dg.DagsterInstance.ephemeral() as instance:
            timed = common.materialize(common.compute_on(sandbox), common.payload(PAYLOAD), instance)
    finally:
        os.dup2(terminal, 1)
        os.close(writing)
        watch.join()
    return timed.wall_seconds, digest.hexdigest(), count[0]


def by_hand(sandbox: common.Sandbox) -> float:
    """Wall time in seconds of running it with `srun` and fetching its output with `scp`."""
    env = sandbox.env()
    options = [
        "-i",
        env["SLURM_EDGE_NODE_KEY_PATH"],
        "-o",
        f"UserKnownHostsFile={env['SLURM_EDGE_NODE_KNOWN_HOSTS_FILE']}",
    ]
    login = f"{env['SLURM_EDGE_NODE_USER']}@{env['SLURM_EDGE_NODE_HOST']}"
    port = env["SLURM_EDGE_NODE_PORT"]
    with tempfile.TemporaryDirectory() as directory:

        def run() -> None:
            command = "cat > many.py; srun --output=many.out python3 many.py"
            subprocess.run(["ssh", *options, "-p", port, login, command], input=PAYLOAD.encode(), check=True)
            subprocess.run(["scp", "-q", *options, "-P", port, f"{login}:many.out", directory], check=True)

        seconds = common.timed(run)
        if hashlib.sha256((Path(directory) / "many.out").read_bytes()).digest() != EXPECTED.digest():
            raise RuntimeError("by hand, the output is not what was printed")
    return seconds


def main() -> None:
    """Run and print."""
    with common.running_sandbox() as sandbox:
        ours, digest, size = through_dagster(sandbox)
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        hand = by_hand(sandbox)
    complete = "yes" if digest == EXPECTED.hexdigest() else "NO"
    common.print_table(
        f"{LINES:,} lines at full speed ({size / 1e6:.0f} MB)",
        ["way", "wall, s", "ratio to compute.run", "complete and in order", "peak memory, MiB"],
        [
            ["compute.run", f"{ours:.2f}", "1.00", complete, f"{peak_mib:.0f}"],
            ["srun, then scp", f"{hand:.2f}", f"{hand / ours:.2f}", "yes", "-"],
        ],
    )


if __name__ == "__main__":
    main()
