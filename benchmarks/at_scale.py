"""Many jobs, many lines, many messages: how late lines and messages are, and how much memory the run takes.

    .venv/bin/python benchmarks/at_scale.py [--case messages,chatty,at_once,partitions,output] [--python INTERPRETER]

- messages: 100 jobs at once, each with 20 `context.log` lines through Dagster Pipes within 10 s. The delay is from the
  call on the node to the moment at which the event is in Dagster's log.
- chatty: 20 jobs at once with 100 lines a second each, for 90 s.
- at_once: 500 jobs of 10 s at once.
- partitions: 5,000 partitions as one array.
- output: one job that prints 500 MB.

A case may be smaller or larger: `at_once=100`. With another interpreter, the release that it has is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import common
from contenders import Ended, Site, with_dagster

LOGIN_NODE = ("MaxStartups 1000",)
BEGINNING_SECONDS = 20.0
FAILED = "ended with status {}"


@dataclass(frozen=True)
class Case:
    """What is run.

    Args:
        key: Its name on the command line.
        program: Of `programs/`.
        payload: Of `programs/`.
        number: Of jobs, or of partitions.
        seconds: What the payload takes.
        quiet_seconds: How long it goes on after its last line.
    """

    key: str
    program: str
    payload: str
    number: int
    seconds: int
    quiet_seconds: float

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.key}={self.number}"


CASES = (
    Case("messages", "threaded.py", "messages.py", 100, 10, 0.5),
    Case("chatty", "threaded.py", "chatty.sh", 20, 90, 0.0),
    Case("at_once", "threaded.py", "payload.sh", 500, 10, 1.0),
    Case("partitions", "partitions.py", "payload.sh", 5000, 1, 1.0),
    Case("output", "threaded.py", "output.sh", 1, 0, 0.0),
)
COLUMNS = [
    *("case", "wall, s", "CPU, s", f"MiB in the first {BEGINNING_SECONDS:.0f} s", "MiB", "MB of output", "lines"),
    *("log delay p50, s", "p99, s", "messages", "delay p50, s", "p99, s"),
    *("last step after the last payload, s", "load before"),
]


def measure(site: Site, python: str, case: Case) -> list[str]:
    """Run it, and say what it came to, or that it has failed."""
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="scale-") as directory:
        samples = Path(directory, "samples")
        os.environ["METER_SAMPLES"] = str(samples)
        try:
            ended = with_dagster(site, python, case.program, case.number, case.payload, case.seconds)
        finally:
            del os.environ["METER_SAMPLES"]
        if ended.status != 0:
            print(ended.said, file=sys.stderr)
            return [case.title, FAILED.format(ended.status), *[""] * (len(COLUMNS) - 2)]
        return _row(case, ended, [json.loads(line) for line in samples.read_text().splitlines()], load_before)


def _row(case: Case, ended: Ended, samples: Sequence[tuple[float, float]], load_before: float) -> list[str]:
    meter = json.loads(ended.meter)
    beginning = max(mebibytes for seconds, mebibytes in samples if seconds < BEGINNING_SECONDS)
    return [
        case.title,
        f"{meter['wall_seconds']:.1f}",
        f"{meter['cpu_seconds']:.1f}",
        f"{beginning:.0f}",
        f"{meter['memory_mib']:.0f}",
        f"{ended.output_bytes / 1e6:.1f}",
        # Dagster prints each message as well, which is no line of the payload.
        *_delays([] if ended.message_delays else ended.delays),
        *_delays(ended.message_delays),
        f"{ended.last_step_at - ended.last_line_at - case.quiet_seconds:.1f}" if ended.delays else "-",
        f"{load_before:.1f}",
    ]


def _delays(delays: Sequence[float]) -> list[str]:
    if not delays:
        return ["0", "-", "-"]
    return [f"{len(delays):,}", f"{common.median(delays):.2f}", f"{common.percentile(delays, 0.99):.2f}"]


def main() -> int:
    """Run and print; the exit code is 1 if one has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help=", ".join(case.key for case in CASES))
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs Dagster")
    arguments = parser.parse_args()
    rows = []
    name = os.environ.get(common.SANDBOX_VARIABLE, "benchmarks")
    with (
        common.running_sandbox(common.wide(name)) as sandbox,
        sandbox.login_node(options=LOGIN_NODE) as node,
    ):
        site = Site(sandbox, node)
        for case in common.cases_of([word for word in arguments.case.split(",") if word], CASES):
            rows.append(measure(site, arguments.python, case))
            print(rows[-1], file=sys.stderr, flush=True)
    common.print_table("Many jobs, many lines, many messages", COLUMNS, rows)
    return 1 if any(row[1].startswith("ended") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
