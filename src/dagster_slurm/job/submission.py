"""One job for one piece of work, whatever is lost on the way to Slurm and back."""

from __future__ import annotations

from dagster_slurm.claims import Claims
from dagster_slurm.errors import SlurmUnavailableError, SubmissionUnknownError, SubmitLimitError
from dagster_slurm.job.handle import JobHandle
from dagster_slurm.run_directory import RunDirectory


def submit_once(claims: Claims, directory: RunDirectory) -> JobHandle:
    """Submit an attempt, or find the job that an earlier call has submitted. May be repeated at any time.

    A try whose outcome is not known is settled first: its job is taken, or the try is revoked at its gate. Only then
    there is another try.

    Raises:
        SubmissionRejectedError: sbatch refused; no job exists.
        SubmitLimitError: Slurm takes no more jobs until others have ended; no job exists.
        AttemptClosedError: Another process has closed the attempt; the piece of work is to be looked for again.
        SlurmUnavailableError: Slurm does not answer. Whatever this call left behind, the next one finds it.
    """
    generation = 0
    while True:
        answer = claims.try_to_submit(directory, generation=generation)
        if answer.error is None:
            return JobHandle(directory, answer.job_id, generation)
        if isinstance(answer.error, SubmitLimitError) and not answer.made_now:
            # A refusal of before, for good: it has no job. Its place is taken, and there is another one.
            generation += 1
            continue
        if not isinstance(answer.error, (SlurmUnavailableError, SubmissionUnknownError)):
            raise answer.error
        job_id = claims.settle(directory, generation=generation)
        if job_id is not None:
            return JobHandle(directory, job_id, generation)
        if answer.made_now and isinstance(answer.error, SlurmUnavailableError):
            # Slurm is away now: the caller pauses before there is another try.
            raise answer.error
        generation += 1


def submitted_job(claims: Claims, directory: RunDirectory, *, generation: int) -> JobHandle | None:
    """The job of the newest try to submit that somebody has made; None if there is none, and will be none.

    Raises:
        SlurmUnavailableError: Slurm does not answer, so that it cannot be told.
    """
    answer = claims.submitted(directory, generation=generation)
    if answer.error is None:
        return JobHandle(directory, answer.job_id, generation)
    if not isinstance(answer.error, (SlurmUnavailableError, SubmissionUnknownError)):
        return None
    job_id = claims.settle(directory, generation=generation)
    return None if job_id is None else JobHandle(directory, job_id, generation)
