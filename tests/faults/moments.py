"""When to strike: a fraction of the time from the start of the step to the end of the run."""

from __future__ import annotations

import random
import time

from dagster import DagsterEventType, DagsterRun

from .world import World

# What a run takes beside its payload, from the start of its step: check, upload, queue, and the end.
OVERHEAD_SECONDS = 4.0


def random_moments(chance: random.Random, count: int, payload_seconds: float) -> list[float]:
    """Seconds after the start of the step, one in each equal part of the time, so that none is left out."""
    whole = payload_seconds + OVERHEAD_SECONDS
    return [whole * (number + chance.random()) / count for number in range(count)]


def wait_for_moment(world: World, run: DagsterRun, seconds: float) -> None:
    """Wait until so many seconds after the start of the step, or the end of the run if that comes first."""
    started = world.event(run, DagsterEventType.STEP_START).timestamp
    while time.time() < started + seconds:
        now = world.instance.get_run_by_id(run.run_id)
        if now is None or now.is_finished:
            return
        time.sleep(min(0.2, max(0.0, started + seconds - time.time())))


def sample(chance: random.Random, points: list[str], count: int | None) -> list[str]:
    """Some of the points in their order, or all."""
    if count is None or count >= len(points):
        return points
    chosen = set(chance.sample(range(len(points)), count))
    return [point for number, point in enumerate(points) if number in chosen]
