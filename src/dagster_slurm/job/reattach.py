"""What is already known of a piece of work: a job to follow, or the attempt that is to be begun.

Asked before anything is uploaded. Every answer is one of the cluster's own files or of Slurm itself, so that it does
not matter which process asks, nor which one died.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dagster_slurm.claims import Attempt, Claims
from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.job.handle import JobHandle
from dagster_slurm.job.lifecycle import Patience
from dagster_slurm.job.retrying import Outcome
from dagster_slurm.job.standing import Standing, standing_of
from dagster_slurm.job.submission import submitted_job
from dagster_slurm.run_directory import RunDirectory

_FRESH_SECONDS = 300


@dataclass(frozen=True)
class Found:
    """What is known of a piece of work.

    Args:
        directory: The attempt that goes on, or the one to begin.
        handle: Its job; None if the attempt is to be begun.
        standing: How the job stands.
        description: What its `launch.json` holds.
        outcome: How the job of the attempt ended, if it ended without success.
    """

    directory: RunDirectory
    handle: JobHandle | None = None
    standing: Standing = Standing.ENDED
    description: str = "{}"
    outcome: Outcome | None = None


class Reattachment:
    """Looks for the jobs of pieces of work on one cluster. Each call may be repeated at any time.

    Args:
        cluster: The cluster.
        patience: How long to wait for Slurm's witnesses of an end.
    """

    def __init__(self, cluster: SlurmCluster, *, patience: Patience | None = None) -> None:
        self._cluster = cluster
        self._claims = Claims(cluster)
        self._patience = patience or Patience()

    def find(self, launch: RunDirectory, *, is_same: Callable[[str], bool] = lambda description: False) -> Found:
        """The job that does this piece of work, or has done it; without one, the attempt that is to be begun.

        An attempt that was made just now and not submitted yet is taken up as it is if it is of the same content: of
        two processes that begin at the same moment, one submits. Any other is closed: its content may be out of date.

        A job is provably not there when its attempt is closed: then nothing can be submitted in it any more.

        Args:
            launch: Any attempt at this piece of work.
            is_same: Tells from what `launch.json` holds whether an attempt is of the content that this call has.

        Raises:
            ProtocolVersionError: Another release has made the attempt, and this one cannot go on with it.
            SlurmUnavailableError: Slurm does not answer; nothing follows from that.
        """
        while True:
            attempt = self._claims.newest_attempt(launch)
            if attempt is None:
                return Found(launch.of_attempt(0))
            if _is_fresh(attempt) and is_same(attempt.description):
                return Found(attempt.directory)
            found = self._of(attempt)
            if found is not None and found.handle is not None:
                return found
            if attempt.is_closed or self._close(attempt, found):
                return Found(launch.of_attempt(attempt.number + 1))

    def find_live(self, others: Sequence[RunDirectory], launch: RunDirectory) -> Found | None:
        """Of other launches, one whose job goes on; it becomes an attempt of this launch.

        Args:
            others: Launches of the same work under another key, the most recent first.
            launch: The attempt that would be begun otherwise.
        """
        for other in others:
            attempt = self._claims.newest_attempt(other)
            found = self._of(attempt) if attempt is not None else None
            is_live = found is not None and found.standing is Standing.LIVE
            if found is not None and is_live and self._claims.adopt(launch, found.directory):
                return found
        return None

    def attempt_of_asset(self, digest: str, *, is_abandoned: Callable[[str], bool]) -> RunDirectory | None:
        """The newest attempt for an asset and partition, if nobody works on it any more.

        Args:
            digest: Stands for the asset and the partition.
            is_abandoned: Tells it from what `launch.json` holds.
        """
        directory = self._claims.attempt_of_asset(digest)
        if directory is None:
            return None
        attempt = self._claims.newest_attempt(directory)
        return directory if attempt is not None and is_abandoned(attempt.description) else None

    def _of(self, attempt: Attempt) -> Found | None:
        """The job of an attempt; without a handle if it has ended without success. None if there is none."""
        if attempt.is_closed or attempt.generation is None:
            return None
        handle = submitted_job(self._claims, attempt.directory, generation=attempt.generation)
        if handle is None:
            return None
        stand = standing_of(self._cluster, handle, patience=self._patience)
        if stand.standing is Standing.ENDED:
            return Found(attempt.directory, outcome=stand.outcome)
        return Found(attempt.directory, handle, stand.standing, attempt.description)

    def _close(self, attempt: Attempt, found: Found | None) -> bool:
        outcome = found.outcome.to_json() if found and found.outcome else ""
        return self._claims.close(attempt.directory, generation=attempt.generation, outcome=outcome)


def _is_fresh(attempt: Attempt) -> bool:
    return attempt.generation is None and not attempt.is_closed and attempt.age_seconds < _FRESH_SECONDS
