"""Goes on with cancellations that a process could not finish: the cluster was away for longer than it waited."""

from __future__ import annotations

import time
from collections.abc import Iterator

from dagster import DagsterInstance, DagsterRun

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import DagsterSlurmError
from dagster_slurm.job.cancelling import Canceller
from dagster_slurm.pipes.unfinished import Unfinished, note_finished, runs_with_unfinished, unfinished_of
from dagster_slurm.reconcile.decision import ReconciledRun, Verdict
from dagster_slurm.resources.slurm import SlurmResource

_CONFIRM_SECONDS = 60.0


def cancelled_runs(instance: DagsterInstance, run_ids: list[str] | None, *, dry_run: bool) -> Iterator[ReconciledRun]:
    """Cancel what is left to be cancelled, of these runs or of all, on the cluster of `SlurmResource.from_env()`."""
    for run in runs_with_unfinished(instance):
        if run_ids is not None and run.run_id not in run_ids:
            continue
        orders = list(unfinished_of(instance, run))
        if dry_run:
            jobs = ", ".join(job.job_id for each in orders for job in each.order.jobs) or "not known"
            yield _told(run, f"its jobs are still to be cancelled ({jobs}); would be cancelled", settled=False)
            continue
        left = _left_of(orders)
        if not left:
            note_finished(instance, run)
        done = f"its jobs are still to be cancelled: {left}" if left else "its jobs were cancelled"
        yield _told(run, done, settled=not left)


def _left_of(orders: list[Unfinished]) -> str:
    try:
        cluster = SlurmResource.from_env().connect().cluster
    except DagsterSlurmError as error:
        return error.message
    return "; ".join(filter(None, (_left(cluster, each) for each in orders)))


def _left(cluster: SlurmCluster, unfinished: Unfinished) -> str:
    if unfinished.host != cluster.host:
        return f"they are on {unfinished.host}, and SLURM_EDGE_NODE_HOST is {cluster.host}"
    canceller = Canceller(cluster)
    withdrawal = canceller.carry_out(unfinished.order)
    until = time.monotonic() + _CONFIRM_SECONDS
    while (left := canceller.left_of(withdrawal)) and not withdrawal.undone and time.monotonic() < until:
        time.sleep(1.0)
    return left


def _told(run: DagsterRun, done: str, *, settled: bool) -> ReconciledRun:
    return ReconciledRun(run.run_id, run.job_name, Verdict.CANCELLING, done, settled=settled)
