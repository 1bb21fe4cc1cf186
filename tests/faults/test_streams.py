"""Payloads that do to their output what batch scripts do: no line is lost, and none is there twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagster_slurm.sandbox import Sandbox

from ..support.waiting import at_the_same_time
from .conftest import Record
from .project.plan import Plan
from .world import World

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
STREAMS = {"streams-reopened": "reopened", "output-through-a-child": "child"}


def test_streams(sandbox: Sandbox, tmp_path: Path, record: Record) -> None:
    def trial(row: str) -> None:
        # Faster than the child passes them on: it has some left when the payload has ended.
        plan = Plan(row, pause_seconds=0.03, streams=STREAMS[row])
        world = World(sandbox, tmp_path / row)
        try:
            world.execute("plain_in_process", plan)
            world.wait_for_the_end(plan)
            record(row, [world.figures(plan)])
        finally:
            world.close()

    at_the_same_time(trial, STREAMS)
