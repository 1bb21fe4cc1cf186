"""Runs of the suite's work, in this process and in processes of their own, and what is on record of them."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm.sandbox import Sandbox
from tests.executor.test_threaded import run
from tests.support import forked
from tests.support.instances import lay_out_storage
from tests.support.slurm_jobs import IN_THE_QUEUE, queued_jobs
from tests.support.waiting import eventually

from .project import VARIABLE, Kind, Work

# What tells a payload its unit; before a payload does anything else, it marks its start with it and with its job's id.
MARKING = """unit=${DAGSTER_SLURM_ASSET_KEY:-${DAGSTER_SLURM_PARTITION_KEY:-$UNIT}}
job=${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-}}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
job=$job${DAGSTER_SLURM_HET_GROUP:++$DAGSTER_SLURM_HET_GROUP}
[ -n "${DAGSTER_SLURM_HET_GROUP:-}" ] || job=$job${SLURM_STEP_ID:+.$SLURM_STEP_ID}
echo "$unit ${job:-$$}" >>MARKS
"""
# How often the unit was started by now.
COUNTED = 'tries=$(grep -c "^$unit " MARKS)\n'
HELD = "until [ -e MARKS.go ]; do sleep 0.1; done\n"
# More than a job has, unless it was raised. `tail` keeps what has no end of line.
EATS = "set -o pipefail; head -c {mib}M /dev/zero | tail -c {mib}M | wc -c || exit 1\n"


def kinds(*which: Kind, lacking: Mapping[Kind, str] | None = None, seldom: Sequence[Kind] = ()) -> pytest.MarkDecorator:
    """Run a test for each kind.

    Args:
        which: The kinds.
        lacking: Why it fails for a kind; it has to fail, so that nobody forgets the mark.
        seldom: Those that `make faults` alone runs.
    """

    def marks(kind: Kind) -> list[pytest.MarkDecorator]:
        found = [pytest.mark.cluster] if kind.is_on_slurm else []
        found += [pytest.mark.all_faults] if kind in seldom else []
        reason = (lacking or {}).get(kind)
        return [*found, pytest.mark.xfail(strict=True, reason=reason)] if reason else found

    return pytest.mark.parametrize("kind", [pytest.param(each, id=each.name, marks=marks(each)) for each in which])


class World:
    """A kind of carrier, a Dagster instance, and what the payloads leave.

    Args:
        kind: What carries the work.
        directory: Of this machine.
        cluster: Where it runs; None for this machine.
        units: The names of the units.
    """

    def __init__(self, kind: Kind, directory: Path, cluster: Sandbox | None, units: Sequence[str]) -> None:
        self.kind, self.directory, self.cluster = kind, directory, cluster
        self.units = tuple(units)
        self.home, self.notes = directory / "dagster", directory / "notes"
        self.notes.mkdir(parents=True)
        lay_out_storage(self.home)
        (self.home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        self.marks_path = (cluster.home if cluster else directory) / f"marks-{time.monotonic_ns()}"
        self.control = tempfile.mkdtemp(prefix="ssh-", dir="/tmp")
        self.processes: list[forked.Process] = []

    @property
    def variables(self) -> dict[str, str]:
        """Of the processes."""
        cluster = self.cluster.env() if self.cluster else {}
        return {
            **cluster,
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_SLURM_SSH_CONTROL_DIR": self.control,
            "SLURM_REMOTE_BASE": f"~/runs/{self.marks_path.name}",
            "FAULTS_NOTES": str(self.notes),
        }

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        """Dagster's storage."""
        return dg.DagsterInstance.from_config(str(self.home))

    def payload(self, text: str, name: str = "payload.sh") -> str:
        """Write one. `MARKS` in it is where the marks are."""
        path = self.directory / name
        path.write_text(text.replace("MARKS", str(self.marks_path)))
        return str(path)

    def work(self, body: str, *, units: Sequence[str] | None = None, **options: Any) -> Work:
        """The work whose payload does that after its mark."""
        return Work(self.kind, tuple(units or self.units), self.payload(MARKING + body), **options)

    # -- runs

    def run(self, work: Work) -> Ran:
        """A run in this process."""
        with pytest.MonkeyPatch.context() as patched:
            for name, value in self.variables.items():
                patched.setenv(name, value)
            return Ran(self, run(work.job(), self.instance, tags=work.tags()).run_id)

    def made(self, work: Work, run_id: str) -> Ran:
        """A run of that id, which has failed before anything of it is on record."""
        with pytest.MonkeyPatch.context() as patched:
            for name, value in self.variables.items():
                patched.setenv(name, value)
            made = self.instance.create_run_for_job(job_def=work.job(), run_id=run_id)
        self.instance.report_run_failed(made)
        return Ran(self, run_id)

    def start(self, work: Work, *how: str) -> forked.Process:
        """A run in a process of its own."""
        variables = {**os.environ, **self.variables, VARIABLE: work.to_json()}
        argv = [sys.executable, "-m", "tests.contract.process", *how]
        with (self.directory / "process.log").open("ab") as log:
            self.processes.append(forked.start(argv, env=variables, stdout=log, stderr=log))
        return self.processes[-1]

    def kill(self, process: forked.Process) -> Ran:
        """Kill a run's process, and have Dagster know of it; the run."""
        process.kill()
        process.wait()
        killed = self.newest()
        self.instance.report_run_failed(killed.dagster_run)
        return killed

    def retry(self, of: Ran, work: Work) -> Ran:
        """A re-execution from failure, in a process of its own, to its end."""
        process = self.start(work, "from_failure", of.run_id)
        process.wait(120)
        return self.newest()

    def newest(self) -> Ran:
        """The run that was made last."""
        return Ran(self, self.instance.get_run_records(limit=1)[0].dagster_run.run_id)

    def eventually_another(self, than: Ran) -> Ran:
        """The run that follows one."""
        eventually(lambda: self.newest().run_id != than.run_id, "another run")
        return self.newest()

    # -- what the payloads left

    def marks(self) -> list[tuple[str, str]]:
        """Unit and job of each start of a payload; on this machine the process in place of the job."""
        lines = self.marks_path.read_text().splitlines() if self.marks_path.exists() else []
        return [(unit, job) for unit, job in map(str.split, lines)]

    def executed(self) -> Counter[str]:
        """How often each unit was executed."""
        return Counter(unit for unit, _ in self.marks())

    def once(self) -> dict[str, int]:
        """Every unit, once."""
        return dict.fromkeys(self.units, 1)

    def started(self, number: int | None = None) -> None:
        """Wait until so many payloads have started, by default one for each unit."""
        wanted = len(self.units) if number is None else number
        eventually(lambda: len(self.marks()) >= wanted, lambda: f"{wanted} starts: {self.marks()} {self.said()}")

    def go(self) -> None:
        """Let go on what is held."""
        self._touch("go")

    def _touch(self, suffix: str) -> None:
        path = f"{self.marks_path}.{suffix}"
        if self.cluster:
            assert self.cluster.run(["touch", path]).returncode == 0
        else:
            Path(path).touch()

    def jobs(self, states: str = IN_THE_QUEUE, shown: str = "%i") -> list[str]:
        """The jobs in the queue."""
        assert self.cluster
        return queued_jobs(self.cluster, self.marks_path.name, states, shown)

    def control_job(self, verb: str, job: str) -> None:
        """What the cluster's administrator does with a job."""
        assert self.cluster
        done = self.cluster.run(["scontrol", verb, job], user="root")
        assert done.returncode == 0, done.stderr

    def read(self, path: str) -> str:
        """A file where the payloads run."""
        return self.cluster.run(["cat", path]).stdout if self.cluster else Path(path).read_text()

    def said(self) -> str:
        """What the processes have printed, its end."""
        path = self.directory / "process.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def close(self) -> None:
        """End everything."""
        for process in self.processes:
            process.kill()
            process.wait()
        if self.cluster:
            self.cluster.run(["scancel", f"--user={self.cluster.user}"])
        else:
            for _, pid in self.marks():
                with suppress(ProcessLookupError, ValueError):
                    os.killpg(int(pid), signal.SIGKILL)
        self.instance.dispose()


class Ran:
    """A run, and what is on record of it."""

    def __init__(self, world: World, run_id: str) -> None:
        self._world = world
        self.run_id = run_id

    @property
    def dagster_run(self) -> dg.DagsterRun:
        """As it is now."""
        found = self._world.instance.get_run_by_id(self.run_id)
        assert found
        return found

    @property
    def succeeded(self) -> bool:
        """Whether it did."""
        return self.dagster_run.status is dg.DagsterRunStatus.SUCCESS

    def messages(self) -> list[str]:
        """Of its log."""
        return [each.user_message for each in self._world.instance.all_logs(self.run_id)]

    def text(self) -> str:
        """Its log, for who looks why something has failed."""
        return "\n".join([*self.messages(), *map(str, self._failures()), self._world.said()])

    def until(self, *texts: str) -> None:
        """Wait until its log says one of these."""
        eventually(
            lambda: any(text in each for each in self.messages() for text in texts), lambda: f"{texts}: {self.text()}"
        )

    def materialized(self) -> dict[str, dict[str, Any]]:
        """The metadata that is on record, by unit."""
        found: dict[str, dict[str, Any]] = {}
        for entry in self._events(dg.DagsterEventType.ASSET_MATERIALIZATION):
            made = entry.asset_materialization
            assert made
            unit = made.partition or made.asset_key.to_user_string()
            assert unit not in found, f"{unit} is on record twice"
            found[str(unit)] = {name: value.value for name, value in made.metadata.items()}
        return found

    def failure(self, unit: str) -> str:
        """Why a unit has failed, as the step's error has it, or, of a partition, the log."""
        if self._world.kind.is_array:
            head = f"{'Asset' if self._world.kind.is_hetjob else 'Partition'} {unit}: "
            found = [each.removeprefix(head) for each in self.messages() if each.startswith(head)]
        else:
            found = [text for step, text in self._failures() if step == unit]
        return found[-1] if found else ""

    def output(self, unit: str) -> str:
        """What a unit's payload wrote to stdout, out of the compute log."""
        whole = "".join(map(self._stdout, self._events(dg.DagsterEventType.LOGS_CAPTURED)))
        if not self._world.kind.is_array:
            return whole
        lines = whole.splitlines(keepends=True)
        return "".join(line.partition("] ")[2] for line in lines if line.startswith(f"[{unit}]"))

    def _stdout(self, entry: dg.EventLogEntry) -> str:
        key = entry.get_dagster_event().logs_captured_data.file_key
        data = self._world.instance.compute_log_manager.get_log_data([self.run_id, "compute_logs", key])
        return (data.stdout or b"").decode()

    def _failures(self) -> list[tuple[str, str]]:
        found = []
        for entry in self._events(dg.DagsterEventType.STEP_FAILURE):
            error = entry.get_dagster_event().step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            found.append((str(entry.step_key), error.message if error else ""))
        return found

    def _events(self, kind: dg.DagsterEventType) -> Sequence[dg.EventLogEntry]:
        return self._world.instance.all_logs(self.run_id, of_type=kind)


Make = Callable[..., World]
