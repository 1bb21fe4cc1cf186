"""One job for one piece of work, whatever is lost on the way to Slurm and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.claims import UNSETTLED, Claims
from dagster_slurm.cluster.look import Ask, Look, look
from dagster_slurm.cluster.records import AttemptRecord
from dagster_slurm.errors import SubmissionUnknownError, SubmitLimitError
from dagster_slurm.run_directory import JobHandle, RunDirectory
from dagster_slurm.transport import TreeEntry

# How long a try to submit is expected to be answered; after that, whoever made it may be gone.
_ANSWER_SECONDS = 15.0


def submit_once(
    claims: Claims,
    directory: RunDirectory,
    files: Sequence[TreeEntry] = (),
    *,
    slow: Callable[[str], None] = lambda said: None,
) -> JobHandle:
    """Submit an attempt, or find the job that an earlier call has submitted. May be repeated at any time.

    A try whose outcome is not known is settled first: its job is taken, or the try is revoked at its gate. Only then
    there is another try.

    Args:
        claims: The attempts on the cluster.
        directory: The attempt.
        files: What it is made of, unless it is there; small ones, see `are_small`.
        slow: Called, maybe again and again, with what there is to say of an sbatch that takes long.

    Raises:
        SubmissionRejectedError: sbatch refused; no job exists.
        SubmitLimitError: Slurm takes no more jobs until others have ended; no job exists.
        AttemptClosedError: Another process has closed the attempt; the piece of work is to be looked for again.
        SlurmUnavailableError: Slurm does not answer. Whatever this call left behind, the next one finds it.
        SlurmOutputError: sbatch's answer names no job, and Slurm knows none by its name.
    """
    generation = 0
    while True:
        answer = claims.try_to_submit(directory, files, generation=generation, slow=slow)
        if answer.error is None:
            return JobHandle(directory, answer.job_id, generation)
        if isinstance(answer.error, SubmitLimitError) and not answer.made_now:
            # A refusal of before, for good: it has no job. Its place is taken, and there is another one.
            generation = max(generation + 1, claims.newest(directory))
            continue
        if not isinstance(answer.error, UNSETTLED):
            raise answer.error
        job_id = claims.settle(directory, generation=generation)
        if job_id is not None:
            return JobHandle(directory, job_id, generation)
        if answer.made_now and not isinstance(answer.error, SubmissionUnknownError):
            # Slurm is away now: the caller pauses before there is another try. Or its answers cannot be read.
            raise answer.error
        generation += 1


def look_for_jobs(
    cluster: SlurmCluster,
    launches: Sequence[RunDirectory],
    *,
    asset_digest: str = "",
    ask: Ask,
    may_be_lost: str = "",
) -> Look:
    """Look at pieces of work; what is being submitted at this moment is waited for a while."""
    until = time.monotonic() + _ANSWER_SECONDS
    while True:
        seen = look(cluster, launches, asset_digest=asset_digest, ask=ask, may_be_lost=may_be_lost)
        is_unanswered = seen.listing.launches and any(_is_being_submitted(launch, seen) for launch in launches)
        if not is_unanswered or time.monotonic() >= until:
            return seen
        time.sleep(1.0)


def _is_being_submitted(launch: RunDirectory, seen: Look) -> bool:
    return any(_is_unanswered(attempt, seen) for attempt in seen.listing.attempts(launch).values())


def _is_unanswered(attempt: AttemptRecord, seen: Look) -> bool:
    if attempt.is_closed or not attempt.claims:
        return False
    claim = attempt.claims[-1]
    is_known = claim.answer or claim.owner or seen.slurm.names.get(attempt.directory.job_name(claim.generation))
    return not is_known and seen.listing.now - claim.made_at < _ANSWER_SECONDS
