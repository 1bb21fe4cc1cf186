"""One job for one piece of work, whatever is lost on the way to Slurm and back."""

from __future__ import annotations

from dataclasses import dataclass

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import SlurmUnavailableError, SubmissionUnknownError
from dagster_slurm.run_directory import RunDirectory


@dataclass(frozen=True)
class Submission:
    """The job of a launch, and which try to submit brought it."""

    job_id: str
    generation: int


def submit_once(cluster: SlurmCluster, directory: RunDirectory, *, job_name: str) -> Submission:
    """Submit a launch, or find the job that an earlier call has submitted. May be repeated at any time.

    A try whose outcome is not known is settled first: its job is taken, or the try is revoked at its gate. Only then
    there is another try.

    Raises:
        SubmissionRejectedError: sbatch refused; no job exists.
        SlurmUnavailableError: Slurm does not answer. Whatever this call left behind, the next one finds it.
    """
    generation = 0
    while True:
        answer = cluster.try_to_submit(directory, job_name=job_name, generation=generation)
        if answer.error is None:
            return Submission(answer.job_id, generation)
        if not isinstance(answer.error, (SlurmUnavailableError, SubmissionUnknownError)):
            raise answer.error
        job_id = cluster.settle(directory, job_name=job_name, generation=generation)
        if job_id is not None:
            return Submission(job_id, generation)
        if answer.made_now and isinstance(answer.error, SlurmUnavailableError):
            # Slurm is away now: the caller pauses before there is another try.
            raise answer.error
        generation += 1
