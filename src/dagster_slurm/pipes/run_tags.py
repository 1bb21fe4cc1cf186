"""Job ids and run directory in the run's tags: for people. Nothing relies on them.

Tags are written without a lock, so that one of two writers may be lost, and Dagster's daemon copies them to retries.
"""

from __future__ import annotations

import posixpath

from dagster import OpExecutionContext

from dagster_slurm.job.handle import JobHandle
from dagster_slurm.pipes.dagster_private import dagster_run

JOB_ID_TAG = "slurm/job_id"
RUN_DIRECTORY_TAG = "slurm/run_directory"


def tell_in_tags(step: OpExecutionContext, handle: JobHandle) -> None:
    """Add a job to the tags of the step's run."""
    if dagster_run(step) is None:
        return
    try:
        run = step.instance.get_run_by_id(step.run_id)
        known = run.tags.get(JOB_ID_TAG, "").split(", ") if run else []
        ids = dict.fromkeys([*filter(None, known), handle.job_id])
        tags = {JOB_ID_TAG: ", ".join(ids), RUN_DIRECTORY_TAG: posixpath.dirname(handle.directory.launch)}
        step.instance.add_run_tags(step.run_id, tags)
    except Exception as error:  # noqa: BLE001 - a tag for people is not worth a job
        step.log.debug(f"The run's tags were not written: {error!r}")
