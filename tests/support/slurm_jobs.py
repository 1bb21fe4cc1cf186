"""What Slurm knows of the jobs of the sandbox's user."""

from __future__ import annotations

from dagster_slurm.sandbox import Sandbox

# What may still change.
IN_THE_QUEUE = "PENDING,RUNNING,COMPLETING,SUSPENDED"
# To both, a component of a het job is a number of its own. To sacct's `JobID` it is `58+1`.
SACCT = ["sacct", "-X", "-n", "-P", "--starttime=2000-01-01", "--format=JobID,JobIDRaw"]
# sacct learns of a short job some seconds after its end, and squeue forgets it after minutes.
SQUEUE = ["squeue", "--me", "--noheader", "--states=all", "--format=%F|%F"]


def submitted_jobs(sandbox: Sandbox) -> set[str]:
    """The ids of all jobs, and of all components of het jobs, that the user ever submitted.

    An array counts as one: sacct has its tasks as they start, which may be long after the submission.
    """
    rows = [line.split("|") for argv in (SACCT, SQUEUE) for line in sandbox.run(argv).stdout.split()]
    return {job_id.partition("_")[0] if "_" in job_id else number for job_id, number in rows}


def queued_jobs(sandbox: Sandbox, below: str, states: str = IN_THE_QUEUE, shown: str = "%i") -> list[str]:
    """The jobs in the queue that belong to one test; those of earlier ones may still be there.

    Args:
        sandbox: The cluster.
        below: The last part of its `remote_base`, which all their working directories are below.
        states: In which they are.
        shown: What to return of each, as `squeue --format` takes it.
    """
    asked = ["squeue", "--me", "--noheader", f"--states={states}", f"--format={shown}|%Z"]
    jobs = (line.split("|") for line in sandbox.run(asked).stdout.splitlines())
    return [job for job, directory in jobs if f"/{below}/" in directory]
