"""What one trial is to do. It travels with the run as a tag, and so reaches every retry of it."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

NAME_TAG = "faults/trial"
PLAN_TAG = "faults/plan"
PARTITIONS = tuple(f"p{number:02}" for number in range(20))


def trial_name(*parts: object) -> str:
    """A name for a trial, fit for a file name and for Slurm's comment."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(map(str, parts)))


@dataclass(frozen=True)
class Plan:
    """One trial.

    Args:
        name: Tells it from all others.
        lines: How many numbered lines the payload prints.
        pause_seconds: Pause of the payload between two lines.
        line_bytes: Length to which the lines are filled up.
        die: `before:STEP` or `after:STEP`, where STEP is a remote step: the process kills itself there, once.
        die_with_group: Kill the whole process group there.
        slurm: Further options for sbatch.
        upload: A file of this machine that is sent along.
        outputs: Files of the working directory that are fetched.
        hold: Have the payload wait in the middle until the test lets it go.
        cluster: What is beside the payload: `ray`, `spark`, or nothing.
        streams: What the payload does to its output: `reopened` for each line, as with `> /dev/stdout`, or through a
            `child` that is behind when the payload ends, as with `exec > >(tee log)`.
        slow_end: Have the job stay in COMPLETING for a while.
        exit_code: With which the payload ends.
    """

    name: str
    lines: int = 40
    pause_seconds: float = 0.15
    line_bytes: int = 0
    die: str = ""
    die_with_group: bool = False
    slurm: Mapping[str, Any] = field(default_factory=dict)
    upload: str = ""
    outputs: tuple[str, ...] = ()
    slow_end: bool = False
    exit_code: int = 0
    hold: bool = False
    cluster: str = ""
    streams: str = ""

    def tags(self) -> dict[str, str]:
        return {NAME_TAG: self.name, PLAN_TAG: json.dumps(asdict(self))}

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> "Plan":
        return cls(**json.loads(tags[PLAN_TAG]))

    def expected_lines(self) -> list[str]:
        return [self.line(number) for number in range(self.lines)]

    def line(self, number: int) -> str:
        return f"line {number}".ljust(self.line_bytes, ".")
