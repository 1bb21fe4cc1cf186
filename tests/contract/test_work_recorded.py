"""A run directory that an earlier commit has written is adopted: followed or collected, and nothing is submitted again.

`tests/recorded/251ced3` is the `remote_base` of a run of one asset with that commit's package and Dagster 1.13.28. Its
process was killed while its job ran; so it lay there when the job had ended. Adapted here is, and nothing else:

- The paths of `remote_base` and of the environment, also within what Pipes has encoded in env.sh, to this sandbox's.
- The modes, of which git keeps little.
- Slurm has to know the job, so that its id is that of a job of this sandbox. For one that has ended, that is a job of
  the same name which does nothing: script, claim and logs are the recorded ones. For one that runs, it is the recorded
  script that runs, so that what a job writes itself (gate and logs) is not there before.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from dagster_pipes import decode_param, encode_param

from dagster_slurm.sandbox import Sandbox
from tests.support.environments import copied_environment
from tests.support.waiting import eventually

from .project import OWN, Work
from .work import Make, Ran, World

pytestmark = [pytest.mark.cluster, pytest.mark.process, pytest.mark.timeout(180)]

RECORDED = Path(__file__).parents[1] / "recorded" / "251ced3"
ORIGIN = "680d7840-ef85-4722-b776-efa2632e894f"
KEY = "a-4007f2a2c693"
JOB = "2"
BASE = "/var/lib/dagster-slurm-sandbox/record/home/recorder/recorded"
ENVIRONMENT = "/var/lib/dagster-slurm-sandbox/record/environments/tests"
ENCODED = re.compile(r"^(export DAGSTER_PIPES_\w+=)(.*)$", re.MULTILINE)


class Recorded:
    """The recorded directory, put on a cluster for a run of the same id that has failed."""

    def __init__(self, world: World, cluster: Sandbox) -> None:
        self.world, self.cluster = world, cluster
        # Of the recorded payload.
        self.marks, self.go = cluster.home / "recorded-marks", cluster.home / "recorded-marks.go"
        for path in (self.marks, self.go):
            path.unlink(missing_ok=True)
        self.environment = copied_environment(cluster, "tests", ["dagster-pipes"])
        self.base = cluster.home / "runs" / world.marks_path.name
        self.attempt = self.base / "runs" / ORIGIN / KEY / "0"
        self._place()
        self.work = Work(
            OWN,
            ("a",),
            str(RECORDED / self.attempt.relative_to(self.base) / "work" / "payload.py"),
            resource={"pre_deployed_env_path": self.environment},
        )
        self.killed = world.made(self.work, ORIGIN)

    def _place(self) -> None:
        assert self.cluster.run(["mkdir", "-p", str(self.base.parent)]).returncode == 0
        # The set-up compiles what looks like a module.
        shutil.copytree(RECORDED, self.base, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        (self.attempt.parent / "checkpoint").mkdir()
        for path in self.base.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.write_text(self._adapted(path.read_text()))
        self._give_to_user()

    def _adapted(self, text: str) -> str:
        def encoded(match: re.Match[str]) -> str:
            values = {name: self._adapted(value) for name, value in decode_param(match[2]).items()}
            return match[1] + encode_param(values)

        adapted = text.replace(BASE, str(self.base)).replace(ENVIRONMENT, self.environment)
        return ENCODED.sub(encoded, adapted)

    def _give_to_user(self) -> None:
        done = self.cluster.run(["chown", "-Rh", self.cluster.user, str(self.base)], user="root")
        assert done.returncode == 0, done.stderr
        assert self.cluster.run(["chmod", "-R", "go=", str(self.base)]).returncode == 0

    def submit(self, *argv: str) -> str:
        """Submit a job by the recorded name, and put its id where that of the recorded one stood."""
        done = self.cluster.run(["sbatch", "--parsable", f"--job-name={KEY}", *argv])
        assert done.returncode == 0, done.stderr
        job = done.stdout.strip()
        claim, status = self.attempt / "claim" / "0", self.attempt / "log" / "status"
        (claim / "stdout").write_text(f"{job}\n")
        if (claim / "gate").is_symlink():
            (claim / "gate").unlink()
            (claim / "gate").symlink_to(job)
            status.write_text(re.sub(rf"^(start|end) {JOB} ", rf"\1 {job} ", status.read_text(), flags=re.MULTILINE))
            self._give_to_user()
        return job

    def without_what_a_job_writes(self) -> None:
        """As it was at the submission."""
        (self.attempt / "claim" / "0" / "gate").unlink()
        (self.attempt / "log" / "messages").unlink()
        for path in (self.attempt / "log").iterdir():
            os.truncate(path, 0)


@pytest.fixture
def recorded(make: Make, sandbox: Sandbox) -> Recorded:
    return Recorded(make(OWN, "a"), sandbox)


def adopted(recorded: Recorded, again: Ran, job: str) -> None:
    assert again.succeeded, again.text()
    made = again.materialized()["a"]
    assert (made["rows"], str(made["slurm_job_id"])) == (42, job)
    assert again.output("a") == "begun\ndone\n"
    assert not any("Submitted Slurm" in text for text in again.messages())
    eventually(lambda: not recorded.attempt.exists(), "its removal")


def test_one_that_runs_is_followed(recorded: Recorded) -> None:
    recorded.without_what_a_job_writes()
    job = recorded.submit(str(recorded.attempt / "job.sh"), "0")
    eventually(recorded.marks.exists, "the start of the recorded payload")
    process = recorded.world.start(recorded.work, "from_failure", ORIGIN)
    again = recorded.world.eventually_another(recorded.killed)
    again.until(f"Reattaching to Slurm job {job}")
    recorded.go.touch()
    assert process.wait(60) == 0, again.text()
    assert recorded.marks.read_text().split() == [job]
    adopted(recorded, again, job)


def test_one_that_has_ended_is_collected(recorded: Recorded) -> None:
    job = recorded.submit(f"--chdir={recorded.attempt}/work", "--mem=20M", "--output=/dev/null", "--wrap=true")
    eventually(lambda: job in recorded.world.jobs("COMPLETED"), "the end of the job")
    again = recorded.world.retry(recorded.killed, recorded.work)
    assert not recorded.marks.exists()
    assert any(f"Collecting Slurm job {job}" in text for text in again.messages()), again.text()
    adopted(recorded, again, job)
