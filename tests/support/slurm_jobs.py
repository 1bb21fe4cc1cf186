"""What Slurm knows of the jobs of the sandbox's user."""

from __future__ import annotations

from dagster_slurm.sandbox import Sandbox

SACCT = ["sacct", "-X", "-n", "-P", "--starttime=2000-01-01", "--format=JobID"]
# sacct learns of a short job some seconds after its end, and squeue forgets it after minutes.
SQUEUE = ["squeue", "--me", "--noheader", "--states=all", "--format=%F"]


def submitted_jobs(sandbox: Sandbox) -> set[str]:
    """The ids of all jobs that the user ever submitted.

    An array counts as one: sacct has its tasks as they start, which may be long after the submission.
    """
    ids = [job_id for argv in (SACCT, SQUEUE) for job_id in sandbox.run(argv).stdout.split()]
    return {job_id.partition("_")[0] for job_id in ids}
