"""This tree against another commit: the same work by both in turns, on the same sandbox.

    .venv/bin/python benchmarks/run.py --against COMMIT [--pairs 5] [--case one,at_once,partitions=1000]

Each has a virtual environment of its own, with the same releases of everything else. The ratios of wall time and CPU
are medians of the pairs'. What is counted is the least of each side: a pause of the machine makes one more question,
and nothing makes one less.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import common
from contenders import Ended, Site, with_dagster

ROOT = Path(__file__).resolve().parents[1]
PAIRS = 5
MOST_WALL = 1.05
MOST_CPU = 1.10
# Looks at files and questions to Slurm are as many as a job runs long: they are shown, and have no limit.
BY_TIME = ("poll", "squeue", "sacct")
COUNTED = ("logins", "channels", "submissions", "RPCs", "round trips")


@dataclass(frozen=True)
class Case:
    """What both do.

    Args:
        key: Its name on the command line.
        program: Of `programs/`.
        number: Of jobs, or of tasks.
        seconds: What the payload takes.
    """

    key: str
    program: str
    number: int
    seconds: int

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.key}={self.number}"


CASES = (
    Case("one", "threaded.py", 1, 2),
    Case("at_once", "threaded.py", 100, 10),
    Case("partitions", "partitions.py", 1000, 1),
)


@dataclass(frozen=True)
class Measured:
    """One run; times in seconds. `counts` is what is compared, `asked` the round trips by what they ask."""

    wall: float
    cpu: float
    counts: Mapping[str, int]
    asked: Mapping[str, int]


@dataclass(frozen=True)
class Figure:
    """One figure of a case, of the other commit and of this tree, and the most that it may be; None for no limit."""

    name: str
    other: float
    this: float
    value: float
    most: float | None

    @property
    def is_kept(self) -> bool:
        """Whether it is within its limit."""
        return self.most is None or self.value <= self.most


def figures(pairs: Sequence[tuple[Measured, Measured]]) -> list[Figure]:
    """What some pairs come to: of the other commit first, then of this tree. Pure."""
    found = []
    for name, most in (("wall", MOST_WALL), ("cpu", MOST_CPU)):
        values = [(getattr(other, name), getattr(this, name)) for other, this in pairs]
        ratio = common.median([this / other for other, this in values])
        sides = (common.median(side) for side in zip(*values, strict=True))
        found.append(Figure(f"{name}, s", *sides, ratio, most))
    for name in COUNTED:
        other, this = (min(side.counts[name] for side in sides) for sides in zip(*pairs, strict=True))
        found.append(Figure(name, other, this, this, other))
    for name in sorted({name for pair in pairs for side in pair for name in side.asked}):
        other, this = (min(side.asked.get(name, 0) for side in sides) for sides in zip(*pairs, strict=True))
        found.append(Figure(f"- {name}", other, this, this, None))
    return found


def row(case: Case, figure: Figure) -> list[str]:
    """For a table."""
    if figure.most is None:
        ratio, limit = "", ""
    elif figure.name in COUNTED:
        ratio, limit = "", "at most as many"
    else:
        ratio, limit = f"{figure.value:.3f}", f"{figure.most:.2f}"
    said = "" if figure.is_kept else "**over**"
    return [case.title, figure.name, f"{figure.other:g}", f"{figure.this:g}", ratio, limit, said]


COLUMNS = ["case", "figure", "other", "this", "ratio", "limit", ""]


# -- trees and environments


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A tree of a commit of this repository, which is removed."""
    with tempfile.TemporaryDirectory(prefix="against-") as name:
        tree = Path(name, "tree")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def environment(tree: Path, directory: Path) -> str:
    """The interpreter of a new virtual environment as a tree's users have it, with the releases of this process's."""
    uv = str(Path(sys.executable).parent / "uv")
    python = directory / "bin" / "python"
    frozen = subprocess.run(
        [uv, "pip", "freeze", "--python", sys.executable, "--exclude-editable"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, directory], check=True)
    (directory / "constraints.txt").write_text(frozen)
    install = [uv, "pip", "install", "--quiet", "--python", python, "--constraint", directory / "constraints.txt"]
    subprocess.run([*install, "--compile-bytecode", "--editable", tree], check=True)
    subprocess.run([python, "-m", "compileall", "-q", tree / "src"], check=True)
    return str(python)


# -- measuring


def measure(site: Site, python: str, case: Case, wait_until_idle: Callable[[Site], None]) -> Measured:
    """One run by one of them.

    Raises:
        RuntimeError: It has failed.
    """
    wait_until_idle(site)
    with tempfile.TemporaryDirectory(prefix="asked-") as directory:
        before = _counters(site)
        os.environ["COUNT_INTO"] = f"{directory}/asked"
        try:
            ended = with_dagster(site, python, f"counted_{case.program}", case.number, "payload.sh", case.seconds)
        finally:
            del os.environ["COUNT_INTO"]
        after = _counters(site)
        if ended.status != 0:
            raise RuntimeError(f"{case.title} ended with status {ended.status}: {ended.said}")
        asked: dict[str, int] = json.loads(Path(directory, "asked").read_text())
    return _measured(ended, Counter(after) - Counter(before), asked)


def _measured(ended: Ended, spent: Mapping[str, int], asked: Mapping[str, int]) -> Measured:
    meter = json.loads(ended.meter)
    trips = sum(number for name, number in asked.items() if name not in BY_TIME)
    counts = {name: spent.get(name, 0) for name in COUNTED if name != "round trips"}
    return Measured(meter["wall_seconds"], meter["cpu_seconds"], {**counts, "round trips": trips}, asked)


def _counters(site: Site) -> dict[str, int]:
    calls = site.sandbox.rpc_counts()
    return {
        "logins": site.node.logins(),
        "channels": site.node.sessions_opened(),
        "submissions": calls.get(common.SUBMISSION, 0),
        "RPCs": calls["total"],
    }


def compare(
    site: Site, commit: str, cases: Sequence[Case], pairs: int, wait_until_idle: Callable[[Site], None]
) -> list[tuple[Case, Figure]]:
    """Run everything, in turns."""
    table: list[tuple[Case, Figure]] = []
    with worktree(commit) as tree:
        pythons = [environment(tree, tree.parent / "other"), environment(ROOT, tree.parent / "this")]
        for python in pythons:
            # What is made once on the cluster, and compiled here, is made before anything is measured.
            measure(site, python, CASES[0], wait_until_idle)
        for case in cases:
            found = []
            for number in range(pairs):
                # A B, B A: on a cluster that has had many jobs, the second of two waits longer.
                order = (0, 1) if number % 2 == 0 else (1, 0)
                taken = {which: measure(site, pythons[which], case, wait_until_idle) for which in order}
                other, this = taken[0], taken[1]
                print(f"{case.title} {number + 1}: {other.wall:.1f} s, {this.wall:.1f} s", file=sys.stderr, flush=True)
                found.append((other, this))
            table += [(case, figure) for figure in figures(found)]
    return table
