"""The controller away, in an orderly way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dagster_slurm.sandbox import Sandbox
from dagster_slurm_sandbox import processes as process_table
from dagster_slurm_sandbox import state as states
from tests.support.waiting import eventually


@contextmanager
def controller_stopped(sandbox: Sandbox) -> Iterator[None]:
    """Stopped as systemctl does it, within the block.

    One that is killed forgets what happened in its last seconds: it starts jobs again that have ended, those of the
    test before too, and gives the ids of new ones to others.
    """
    state = states.load(sandbox.paths)
    assert state is not None
    process_table.end([state.processes["slurmctld"]], grace_seconds=20.0)
    with sandbox.broken("slurmctld"):
        yield
    # One that has come back hears of its nodes one by one.
    eventually(lambda: sandbox.status().ready, "all nodes")
