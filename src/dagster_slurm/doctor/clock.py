"""Whether this machine's clock and the login node's agree."""

from __future__ import annotations

from dagster_slurm.doctor.finding import Finding, fine, warning, wrong
from dagster_slurm.doctor.world import World

STEP = "clock"
_NOTICEABLE_SECONDS = 5.0
_WRONG_SECONDS = 60.0
_REMEDY = "Have both machines keep time by NTP (`timedatectl` says whether this one does)."


def check_clock(world: World) -> Finding:
    """Ask for the time there, between two looks at the clock here."""
    world.log_in()
    before = world.clock()
    there = float(world.gather("clock.sh")["time"][0])
    return judge_clock(before, there, world.clock())


def skew_seconds(before: float, there: float, after: float) -> float:
    """How far the clock there is ahead at least: it was read between two looks at the one here."""
    if there > after:
        return there - after
    return min(0.0, there - before)


def judge_clock(before: float, there: float, after: float) -> Finding:
    """Kerberos refuses from 5 minutes on; times from sacct mislead earlier."""
    skew = skew_seconds(before, there, after)
    if abs(skew) < _NOTICEABLE_SECONDS:
        return fine(STEP, f"this machine and the login node agree within {max(abs(skew), after - before, 0.001):.3f} s")
    ahead = "behind" if skew > 0 else "ahead of"
    problem = f"This machine's clock is {abs(skew):,.0f} s {ahead} the login node's"
    if abs(skew) < _WRONG_SECONDS:
        return warning(STEP, problem, f"{_REMEDY[:-1]}, before it grows.")
    return wrong(STEP, problem, f"{_REMEDY[:-1]}: Kerberos refuses tickets, and the times of jobs are misread.")
