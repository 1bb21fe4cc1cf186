"""Where the time of the suite goes: seconds and CPU of each test, with everything that it starts.

CPU is counted by a control group for each worker, so that daemons, jobs and killed processes are in it.

usage: python -m tests.support.durations DIRECTORY RECORD

Writes the record out of what the workers wrote, and fails where the whole suite takes longer than it may.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.side_by_side import marked_group

VARIABLE = "DURATIONS"
_CGROUPS = Path("/sys/fs/cgroup")
MOST_SECONDS = 15 * 60
# What takes less is in the sums of its directory.
_LEAST_OF_TEST, _LEAST_OF_GROUP = 3.0, 10.0


class CpuClock:
    """CPU seconds of this process and of all that it has started, now and before."""

    def __init__(self) -> None:
        version_1 = _CGROUPS / "cpuacct"
        self._top, name = (version_1, "cpuacct.usage") if version_1.is_dir() else (_CGROUPS, "cpu.stat")
        self._group = self._top / f"dagster-slurm-tests-{os.getpid()}"
        self._usage = self._group / name
        with suppress(OSError):
            self._group.mkdir()
            self._move_to(self._group)

    @staticmethod
    def _move_to(group: Path) -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

    def seconds(self) -> float:
        """CPU so far; without control groups, that of processes which were waited for."""
        if not self._usage.exists():
            return sum(os.times()[:4])
        text = self._usage.read_text(encoding="ascii")
        return int(text) / 1e9 if text.strip().isdigit() else int(text.split()[1]) / 1e6

    def close(self) -> None:
        """Remove the group; one in which a cluster lives on stays."""
        with suppress(OSError):
            self._move_to(self._top)
            self._group.rmdir()


@dataclass(frozen=True)
class Duration:
    """What one test took.

    Args:
        name: Its node id.
        group: What stays together with it.
        began: When, in seconds since 1970.
        seconds: From its set-up to its tear-down.
        cpu_seconds: CPU of everything meanwhile.
    """

    name: str
    group: str
    began: float
    seconds: float
    cpu_seconds: float


class Recorder:
    """Writes a line for each test that this worker runs."""

    def __init__(self, directory: Path) -> None:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "only")
        self._file = (directory / f"{worker}.jsonl").open("w", encoding="utf-8", buffering=1)
        self._clock = CpuClock()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        began, cpu = time.time(), self._clock.seconds()
        result = yield
        group = marked_group(item)
        taken = (began, time.time() - began, self._clock.seconds() - cpu)
        name = item.nodeid.removesuffix(f"@{group}")
        self._file.write(json.dumps([name, group, *(round(each, 3) for each in taken)]) + "\n")
        return result

    def pytest_unconfigure(self) -> None:
        self._clock.close()
        self._file.close()


def read(directory: Path) -> list[Duration]:
    """What the workers have written."""
    lines = [line for path in sorted(directory.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [Duration(*json.loads(line)) for line in lines]


def seconds_by_group(record: Path) -> dict[str, float]:
    """How long each group took when the record was written; nothing without a record."""
    if not record.exists():
        return {}
    rows = [line.split("\t") for line in record.read_text(encoding="utf-8").splitlines()]
    return {row[1]: float(row[2]) for row in rows if row[0] == "group"}


def whole_seconds(durations: Sequence[Duration]) -> float:
    """From the start of the first test to the end of the last."""
    return max(each.began + each.seconds for each in durations) - min(each.began for each in durations)


def record_of(durations: Sequence[Duration]) -> str:
    """The record's text: what, its name, seconds and CPU seconds; the longest first."""
    rows = [("whole", "tests", whole_seconds(durations), sum(each.cpu_seconds for each in durations))]
    for kind, key, least in (
        ("directory", _directory, 0.0),
        ("group", lambda each: each.group, _LEAST_OF_GROUP),
        ("test", lambda each: each.name, _LEAST_OF_TEST),
    ):
        rows += [(kind, *row) for row in _sums(durations, key) if row[1] >= least]
    return "".join(f"{kind}\t{name}\t{seconds:.0f}\t{cpu:.0f}\n" for kind, name, seconds, cpu in rows)


def _directory(duration: Duration) -> str:
    return "/".join(duration.name.partition("::")[0].split("/")[:2])


def _sums(durations: Sequence[Duration], key: Callable[[Duration], str]) -> list[tuple[str, float, float]]:
    found: dict[str, list[Duration]] = defaultdict(list)
    for each in durations:
        found[key(each)].append(each)
    rows = [(name, sum(d.seconds for d in of), sum(d.cpu_seconds for d in of)) for name, of in found.items()]
    return sorted(rows, key=lambda row: (-round(row[1]), row[0]))


def main(directory: str, record: str) -> str | None:
    """Write the record.

    Returns:
        What is wrong with it.
    """
    durations = read(Path(directory))
    Path(record).write_text(record_of(durations), encoding="utf-8")
    whole, cpu = whole_seconds(durations), sum(each.cpu_seconds for each in durations)
    print(f"{len(durations)} tests: {whole:.0f} s, {cpu:.0f} s of CPU; see {record}")
    too_long = whole > MOST_SECONDS
    return f"The suite takes {whole:.0f} s, and {MOST_SECONDS} s is what it may take" if too_long else None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
