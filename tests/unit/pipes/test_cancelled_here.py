"""What a terminated run has left to be cancelled in the Slurm of the machine that Dagster runs on.

Slurm's two commands are stand-ins, by which nothing waits or runs; the shell and Dagster are real.
"""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from tests.support.instances import empty_instance

from dagster_slurm.job.cancelling import Order
from dagster_slurm.pipes.unfinished import Unfinished, leave_to_reconcile
from dagster_slurm.reconcile.cancellations import cancelled_runs
from dagster_slurm.run_directory import JobHandle, RunDirectory
from dagster_slurm.transport.shell_transport import THIS_MACHINE


class Left:
    """A run that has left a job."""

    def __init__(self, instance: dg.DagsterInstance, base: Path) -> None:
        self.instance = instance
        self.base = str(base)
        self.run: Any = instance.create_run_for_job(self.job())

    @staticmethod
    def job() -> dg.JobDefinition:
        @dg.op
        def nothing() -> None: ...

        @dg.job
        def leaves() -> None:
            nothing()

        return leaves

    def leave(self, host: str = THIS_MACHINE) -> None:
        directory = RunDirectory.from_relative(self.base, f"{self.run.run_id}/model/0")
        unfinished = Unfinished(host, self.base, Order((), (JobHandle(directory, "4711", 0),)))

        class Step:
            run, instance, key = self.run, self.instance, "model"

        step: Any = Step()
        leave_to_reconcile(step, unfinished, "squeue did not answer")

    def cancelled(self) -> list[tuple[str, bool]]:
        return [(found.done, found.settled) for found in cancelled_runs(self.instance, None, dry_run=False)]


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    with empty_instance() as instance:
        yield Left(instance, tmp_path)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    said = tmp_path / "asked"
    for command in ("squeue", "scancel"):
        program = tmp_path / "bin" / command
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho {command} "$@" >>{said}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return said


def test_it_is_cancelled_here(left: Left, asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_EDGE_NODE_HOST", raising=False)
    left.leave()
    assert left.cancelled() == [("its jobs were cancelled", True)]
    assert [line.split()[-1] for line in asked.read_text().splitlines() if line.startswith("scancel")] == ["4711"]
    assert left.cancelled() == []


def test_not_on_another_machine(left: Left, asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left.leave()
    noted = socket.gethostname()
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    why = (
        f"its jobs are still to be cancelled: they are those of {noted}, which has Slurm itself: run `reconcile` on it"
    )
    assert left.cancelled() == [(why, False)]
    assert not asked.exists()


def test_not_where_a_login_node_is_named(left: Left, asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_EDGE_NODE_HOST", raising=False)
    monkeypatch.delenv("DAGSTER_SLURM_PROFILE", raising=False)
    left.leave("me@login")
    ((done, settled),) = left.cancelled()
    assert "SLURM_EDGE_NODE_HOST" in done
    assert not settled
    assert not asked.exists()
