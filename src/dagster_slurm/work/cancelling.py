"""The end of a call whose run was terminated."""

from __future__ import annotations

import time
from collections.abc import Callable

from dagster_slurm.pipes.step import Step
from dagster_slurm.work.carriers import Carriers
from dagster_slurm.work.followed import Followed

# Longer than KillWait, 30 s (slurm.conf(5)).
_SLURM_SECONDS = 60.0
_LOOK_SECONDS = 0.5


def cancelled(step: Step, carriers: Carriers, followed: Followed, follow_on: Callable[[], None]) -> str:
    """Take back every carrier, wait for Slurm a while, and say what came of it.

    Args:
        step: The step.
        carriers: Where its jobs are.
        followed: Those that are followed. What they say goes on to Dagster until they have ended.
        follow_on: Passes it on.
    """
    step.log.info("The run was terminated: cancelling its Slurm jobs")
    withdrawal = carriers.withdraw()
    until = time.monotonic() + (0.0 if withdrawal.undone else _SLURM_SECONDS)
    while followed and time.monotonic() < until:
        follow_on()
    left = carriers.left_of(withdrawal)
    while left and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
        left = carriers.left_of(withdrawal)
    job_ids = [job.job_id for job in withdrawal.jobs]
    names = f"Slurm job{'s' if len(job_ids) > 1 else ''} {', '.join(job_ids)}" if job_ids else "no job that is known"
    if left:
        carriers.leave(withdrawal, left)
        return f"{names} was to be cancelled, and that is not confirmed: {left}"
    return f"{names} was cancelled" if job_ids else "no job was submitted"
