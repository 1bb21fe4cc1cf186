"""A small Dagster project that the fault suite runs, kills, cancels and retries."""

import os
import select
import time


def sleep(seconds: float) -> None:
    """As `time.sleep`, without clock_nanosleep(2), which fails with EINVAL under faketime 0.9.10."""
    select.select([], [], [], seconds)


# Before dagster_slurm is imported, which takes hold of it.
if os.environ.get("FAULTS_CLOCK"):
    time.sleep = sleep  # type: ignore[assignment]
