"""slurmctld is killed right after the start of a job, before it has saved that.

It then starts the job again under the same id and counts no restart, or has lost it and has its node end it (22.05).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.sandbox.pytest_plugin import config_for_this_worker
from tests.support.instances import empty_instance

from ..assets.conftest import failure_of
from .test_requeues import Trial

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400), pytest.mark.all_faults]

# What is left of a start that has ended goes at once; a node does not see the processes of another.
ALONE = """
exec 9>>$HOME/alone
flock --wait 1 9 || echo $$ >>$HOME/beside
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Sandbox]:
    """A cluster of its own, since its controller forgets whatever else it has."""
    with Sandbox(config_for_this_worker("tests-killed", "killed", nodes=2)).running() as sandbox:
        yield sandbox


def test_killed_right_after_the_start(site: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The payload never runs beside itself, and a success is a whole one."""
    for name, value in site.env().items():
        monkeypatch.setenv(name, value)
    queue = SlurmQueueConfig(partition="compute", mem="100M", cpus=1, time_limit="00:10:00")
    slurm = SlurmResource(ssh=SSHConnectionResource.from_env(), queue=queue, remote_base="~/runs")
    saved = site.paths.state_dir / "slurmctld" / "job_state"
    with empty_instance() as instance:
        trial = Trial(site, instance, tmp_path)
        trial.payload.write_text(ALONE + trial.payload.read_text())

        def kill() -> None:
            trial.until(lambda: saved.exists() and b"measured-" in saved.read_bytes())
            waiting = saved.read_bytes()
            job_id = trial.wait_for_starts(1)
            with site.broken("slurmctld"):
                # It may save a start at once, or once in some seconds.
                saved.with_suffix(".old").unlink(missing_ok=True)
                saved.write_bytes(waiting)
            for _ in range(15):
                # Where it could not be launched beside its first start, it is held (JobLaunchFailure).
                site.run(["scontrol", "release", job_id])
                time.sleep(1.0)

        compute = ComputeResource(mode="slurm", slurm=slurm, debug_mode=True)
        result = trial.run(compute, kill, extra_slurm_opts={"begin": "now+10"})
        figures = trial.figures(result)
        (log,) = site.home.glob("runs/runs/*/*/0/log/slurm.log")
        print(figures, log.read_text())
        assert not (site.home / "beside").exists()
        assert figures.jobs == 1
        if figures.executed == 2:
            is_requeued = f"start {trial.starts()[0][0]} 1 " in (log.parent / "status").read_text()
            assert is_requeued or "nothing of that start is left" in log.read_text()
        if result.success:
            assert (figures.missing, figures.doubled) == (0, 0)
        else:
            assert "Slurm's controller has lost it" in failure_of(result)[1]
