"""Marks its start and its end with its job's id in a file of the user's home, and prints numbered lines."""

import os
import subprocess
import sys
import time
from pathlib import Path

from dagster_pipes import open_dagster_pipes

MARKS = Path(os.environ["FAULTS_MARKS"])
JOB = os.environ["SLURM_JOB_ID"]
LINES = int(os.environ["FAULTS_LINES"])
PAUSE_SECONDS = float(os.environ["FAULTS_PAUSE_SECONDS"])
LINE_BYTES = int(os.environ["FAULTS_LINE_BYTES"])
GO = os.environ["FAULTS_GO"]
STREAMS = os.environ["FAULTS_STREAMS"]


def mark(what: str) -> None:
    """Append in one write: two jobs that should not both run would not garble each other's marks."""
    MARKS.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(MARKS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, f"{what} {JOB}\n".encode())
    os.close(handle)


def say(text: str) -> None:
    """Print a line, and try again while there is no space for it."""
    data = text.encode() + b"\n"
    if STREAMS == "reopened":
        # As a shell does for `> /dev/stdout`: what it leads to is opened anew, and emptied if it is a file.
        with Path("/dev/stdout").open("wb", buffering=0) as stream:
            stream.write(data)
        return
    while data:
        try:
            data = data[os.write(1, data) :]
        except OSError:
            time.sleep(0.2)


def say_through_a_child() -> None:
    """From now on; the child is still at it when the payload has ended."""
    slowly = 'tee run.log | while IFS= read -r line; do printf "%s\\n" "$line"; sleep 0.05; done'
    child = subprocess.Popen(["sh", "-c", slowly], stdin=subprocess.PIPE)
    os.dup2(child.stdin.fileno(), 1)
    child.stdin.close()


mark("start")
if STREAMS == "child":
    say_through_a_child()
if os.environ.get("FAULTS_SLOW_END"):
    flag = Path.home() / "slow-end" / JOB
    flag.parent.mkdir(exist_ok=True)
    flag.touch()
with open_dagster_pipes() as pipes:
    for number in range(LINES):
        say(f"line {number}".ljust(LINE_BYTES, "."))
        time.sleep(PAUSE_SECONDS)
        while number == LINES // 2 and GO and not Path(GO).exists():
            time.sleep(PAUSE_SECONDS)
    pipes.report_asset_materialization(metadata={"job": JOB, "lines": LINES})
mark("end")
sys.exit(int(os.environ.get("FAULTS_EXIT_CODE", "0")))
