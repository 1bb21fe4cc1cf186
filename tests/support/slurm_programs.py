"""Programs of this machine in the place of squeue, sacct and sbatch, for answers that no cluster gives on demand."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.support.launches import KEY

SLURM = """#!/bin/sh
echo "{name} $*" >>"$(dirname "$0")/asked"
cat "$(dirname "$0")/{name}.err" >&2
cat "$(dirname "$0")/{name}.out"
exit "$(cat "$(dirname "$0")/{name}.status")"
"""


def queued(job_id: str = "17", state: str = "RUNNING", name: str = KEY) -> str:
    """A line of squeue."""
    return f"{job_id}|{job_id}|N/A|{state}|N/A|N/A|None|n1|{name}|\n"


def accounted(job_id: str = "17", state: str = "FAILED", name: str = KEY) -> str:
    """A line of sacct, without trackable resources."""
    return f"{job_id}|{job_id}|{state}|3:0|0:0{'|' * 13}|{name}|\n"


class Slurm:
    """squeue, sacct and sbatch that say what they are told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        for name in ("sbatch", "squeue", "sacct", "scancel"):
            (directory / name).write_text(SLURM.format(name=name))
            (directory / name).chmod(0o755)
            self.says(name)
        self.says("sbatch", "slurm 22.05.8\n")

    def says(self, name: str, printed: str = "", *, status: int = 0, error: str = "") -> None:
        """What a program prints from now on, and how it ends."""
        for suffix, text in ((".out", printed), (".err", error), (".status", str(status))):
            (self.directory / f"{name}{suffix}").write_text(text)

    def asked(self) -> list[str]:
        """What squeue and sacct were asked about, by the last of their words."""
        path = self.directory / "asked"
        lines = [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [f"{words[0]} {words[-1]}" for words in lines if words[0] != "sbatch"]
