"""A run of all partitions, in this process or in one of its own, and what is on record of it."""

import importlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm.sandbox import Sandbox
from tests.support.instances import lay_out_storage

from ..support import forked
from ..support.waiting import eventually

PROJECT = Path(__file__).with_name("project.py")
FIRST, LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass
class World:
    """One project, one Dagster instance, and what the payloads leave on the cluster.

    Args:
        directory: Of the payload and the instance.
        cluster: Where it runs; None for this machine.
        count: How many partitions there are.
        variables: What the project reads.
    """

    directory: Path
    cluster: Sandbox | None
    count: int
    variables: dict[str, str]

    @property
    def marks(self) -> Path:
        return Path(self.variables["MARKS"])

    def executed(self) -> Counter[str]:
        """How often each partition's payload was begun."""
        if not self.marks.exists():
            return Counter()
        return Counter(name.name.split(".")[0] for name in self.marks.glob("*.begun"))

    def instance(self) -> dg.DagsterInstance:
        return self._instance

    @cached_property
    def _instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.directory / "home"))

    def run(self, **options: Any) -> dg.ExecuteInProcessResult:
        """A run of all partitions in this process."""
        job = project().defs.resolve_job_def("all")
        return job.execute_in_process(  # type: ignore[no-any-return]
            instance=self.instance(), raise_on_error=False, tags=self.range_tags(), **options
        )

    def retry(self, run_id: str) -> bool:
        """Whether a re-execution from failure succeeds."""
        argv = [sys.executable, "-m", "tests.partitions.retry", run_id]
        with (self.directory / "retry.log").open("ab") as log:
            return forked.start(argv, stdout=log, stderr=log).wait(120) == 0

    def range_tags(self) -> dict[str, str]:
        return {FIRST: "p000", LAST: f"p{self.count - 1:03d}"}

    def process(self) -> forked.Process:
        """A run of all partitions in a process of its own."""
        argv = [sys.executable, "-m", "dagster", "job", "execute", "-f", str(PROJECT), "-j", "all"]
        argv += ["--tags", json.dumps(self.range_tags())]
        with (self.directory / "process.log").open("wb") as log:
            return forked.start(argv, stdout=log, stderr=log)

    def materialized(self, asset: str = "many") -> Counter[str]:
        """How often each partition is on record."""
        return Counter(str(found.partition) for found in self.materializations(asset))

    def materializations(self, asset: str = "many") -> list[dg.AssetMaterialization]:
        instance, found = self.instance(), []
        for run in instance.get_runs():
            for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
                made = entry.asset_materialization
                if made is not None and made.asset_key == dg.AssetKey(asset):
                    found.append(made)
        return found

    def arrays(self) -> list[str]:
        """The arrays that Slurm has had."""
        assert self.cluster is not None
        said = self.cluster.run(["sacct", "-nXPS", "now-1hour", "--format=JobID,JobName"]).stdout
        # Of those that have just ended the controller alone may know.
        said += self.cluster.run(["squeue", "--noheader", "--me", "--states=all", "--format=%F|%j"]).stdout
        key = [line.split("|") for line in said.splitlines() if "|many-" in line]
        return sorted({job.partition("_")[0] for job, _ in key}, key=int)

    def names(self, *numbers: int) -> list[str]:
        return [f"p{number:03d}" for number in numbers]

    def all_names(self) -> list[str]:
        return self.names(*range(self.count))

    def eventually_executed(self, count: int) -> None:
        eventually(lambda: len(self.executed()) >= count, f"{count} payloads begun")


def project() -> Any:
    """The project, with the variables of now."""
    sys.modules.pop("tests.partitions.project", None)
    return importlib.import_module("tests.partitions.project")


Make = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path, storage: Mapping[str, object], monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    worlds: list[World] = []

    def made(payload: str, *, count: int, cluster: Sandbox | None = None, **variables: str) -> World:
        """A world whose payload is this bash; it notes that it was begun before anything else."""
        home = tmp_path if cluster is None else cluster.home
        marks = home / f"marks-{time.monotonic_ns()}"
        path = tmp_path / "payload.sh"
        begin = f'mkdir -p {marks}; : >"$(mktemp -u {marks}/$DAGSTER_SLURM_PARTITION_KEY.XXXXXX).begun"\n'
        path.write_text(begin + payload.replace("MARKS", str(marks)))
        if not (tmp_path / "home").exists():
            lay_out_storage(tmp_path / "home", storage)
        values = {
            "PAYLOAD": str(path),
            "COUNT": str(count),
            "MARKS": str(marks),
            "MODE": "slurm" if cluster else "local",
            "DAGSTER_HOME": str(tmp_path / "home"),
            "DAGSTER_SLURM_SSH_CONTROL_DIR": f"/tmp/ssh-{os.getpid()}-{time.monotonic_ns()}",
            "SLURM_REMOTE_BASE": f"~/runs/{tmp_path.name}",
            **(cluster.env() if cluster else {}),
            **variables,
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        worlds.append(World(tmp_path, cluster, count, values))
        return worlds[-1]

    yield made
    for world in worlds:
        world.instance().dispose()
