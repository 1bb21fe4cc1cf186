"""A cluster where others hold jobs back, and a real run whose job waits there."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field

import dagster as dg

from dagster_slurm.sandbox import Sandbox

from ..support.waiting import PATIENCE_SECONDS, eventually


@dataclass
class Site:
    """What others do on the cluster: its administrator, and the user in another terminal."""

    cluster: Sandbox
    others: list[str] = field(default_factory=list)
    own: str = ""

    def administer(self, *argv: str) -> None:
        """A command of the administrator's."""
        done = self.cluster.run(argv, user="root")
        assert done.returncode == 0, done.stderr

    def user(self, *argv: str) -> str:
        """A command of the user's; what it prints."""
        done = self.cluster.run(argv)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit(self, *options: str) -> str:
        """Another job of the user, which sleeps."""
        self.others.append(self.user("sbatch", "--parsable", "--mem=100M", *options, "--wrap=sleep 600"))
        return self.others[-1]

    def run_another(self, *options: str) -> None:
        """Another job of the user, which is running."""
        job_id = self.submit(*options)
        asked = ("squeue", "--noheader", "--format=%T", f"--jobs={job_id}")
        eventually(lambda: self.user(*asked) == "RUNNING", f"job {job_id} runs")

    def end_others(self) -> None:
        """End the other jobs."""
        self.user("scancel", *self.others)

    def end_everything(self) -> None:
        """End all jobs of the user."""
        self.user("scancel", "--me")
        eventually(lambda: not self.user("squeue", "--noheader", "--me"), "an empty queue")

    def calls(self) -> int:
        """How many calls of the user the controller has answered."""
        return self.cluster.rpc_counts()["total"]


class Run:
    """A real run on a thread of this process, and what its log says."""

    def __init__(self, instance: dg.DagsterInstance, asset: dg.AssetsDefinition, **resources: object) -> None:
        self.instance = instance
        self._results: list[dg.ExecuteInProcessResult] = []
        self._thread = threading.Thread(target=self._run, args=(asset, resources), daemon=True)
        self._thread.start()

    def _run(self, asset: dg.AssetsDefinition, resources: dict[str, object]) -> None:
        done = dg.materialize([asset], resources=resources, instance=self.instance, raise_on_error=False)
        self._results.append(done)

    def lines(self) -> list[str]:
        """What was said of the job, each after its level."""
        logs = [entry for run in self.instance.get_runs() for entry in self.instance.all_logs(run.run_id)]
        levels = {20: "info", 30: "warning"}
        told = [(levels.get(int(entry.level), ""), entry.user_message) for entry in logs]
        return [f"{level}: {text}" for level, text in told if text.startswith("Slurm job ")]

    def until(self, pattern: str) -> re.Match[str]:
        """The last line with that pattern, as soon as there is one."""

        def found() -> list[re.Match[str]]:
            return [match for line in self.lines() if (match := re.search(pattern, line))]

        eventually(lambda: bool(found()), lambda: f"{pattern!r} in the log; so far {self.lines()}")
        return found()[-1]

    def end(self) -> dg.ExecuteInProcessResult:
        """The result."""
        self._thread.join(PATIENCE_SECONDS)
        assert self._results, f"the run does not end: {self.lines()}"
        return self._results[0]
