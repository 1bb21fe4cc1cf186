"""Work in sessions, and what is on record of their allocations."""

from __future__ import annotations

from typing import Any

from tests.support.waiting import eventually

from .project import Work
from .work import Ran, World

SMALL = {"cpus_per_task": 1, "idle_timeout_seconds": 60}
"""Steps of one CPU are one after the other in it."""


def in_session(
    world: World,
    body: str,
    *,
    resource: dict[str, Any] | None = None,
    call: dict[str, Any] | None = None,
    **fields: Any,
) -> Work:
    """The work as steps of a session with such fields."""
    return world.work(body, resource={**(resource or {}), "session": fields}, call=call or {})


def half_begun(world: World, work: Work) -> None:
    """The first runs, and the others wait in the session."""
    world.start(work)
    world.started(1)
    steps = len(world.units) if not world.kind.is_array else 1
    eventually(lambda: sum("Submitted Slurm step" in each for each in world.newest().messages()) == steps)


def finished(world: World, seconds: float = 240) -> Ran:
    """The newest run, when its process has ended."""
    world.processes[-1].wait(seconds)
    return world.newest()


def allocations(world: World) -> list[str]:
    """The jobs in which payloads have started, in that order."""
    return list(dict.fromkeys(job.partition(".")[0].partition("_")[0] for _, job in world.marks()))
