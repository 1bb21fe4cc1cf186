"""Looks at a cluster: one listing, one squeue and, where these leave something open, one sacct."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.look import look_at_all
from dagster_slurm.cluster.records import Listing
from dagster_slurm.errors import SlurmCommandError
from dagster_slurm.housekeeping.seen import Accounting, SeenJob, seen_jobs


@dataclass(frozen=True)
class Survey:
    """What was seen.

    Args:
        listing: What lies there.
        jobs: All jobs of ours.
        accounting: What sacct says of those about which it was asked.
        notice: Why sacct was asked in vain; empty if it was not.
    """

    listing: Listing
    jobs: Sequence[SeenJob]
    accounting: Accounting
    notice: str = ""


def survey(cluster: SlurmCluster, *, is_open: Callable[[SeenJob], bool]) -> Survey:
    """Look.

    The queue is asked after the listing: a job that is submitted in between is in the queue, or its claim is new when
    something is to be removed.

    Args:
        cluster: The cluster.
        is_open: Of which jobs sacct has to tell.

    Raises:
        TransportError: The cluster could not be reached.
        SlurmUnavailableError: squeue has no answer.
    """
    cluster.refuse_foreign_base()
    listing = look_at_all(cluster)
    jobs = seen_jobs(listing, cluster.queue_of_user())
    asked = [job.job_id for job in jobs if is_open(job)]
    notice, accounting = "", Accounting({})
    if asked:
        try:
            records = cluster.accounting(asked)
            accounting = Accounting(records or {}, is_off=records is None)
        except SlurmCommandError as error:
            accounting = Accounting({}, is_off=error.is_missing_program)
            notice = "" if error.is_missing_program else error.message
    return Survey(listing, jobs, accounting, notice)
