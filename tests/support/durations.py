"""Where the time of the suite goes: seconds and CPU of each test, with everything that it starts.

CPU is counted by a control group for each worker, so that daemons, jobs and killed processes are in it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.side_by_side import marked_group

VARIABLE = "DURATIONS"
_CGROUPS = Path("/sys/fs/cgroup")


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
        seconds: From its set-up to its tear-down.
        cpu_seconds: CPU of everything meanwhile.
    """

    name: str
    group: str
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
        began, cpu = time.monotonic(), self._clock.seconds()
        result = yield
        group = marked_group(item)
        taken = (time.monotonic() - began, self._clock.seconds() - cpu)
        name = item.nodeid.removesuffix(f"@{group}")
        self._file.write(json.dumps([name, group, round(taken[0], 3), round(taken[1], 3)]) + "\n")
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
    rows = [line.split("\t") for line in record.read_text(encoding="utf-8").splitlines() if line.startswith("group\t")]
    return {name: float(seconds) for _, name, seconds, _ in rows}
