"""Cancels what a terminated run could not cancel itself, on the cluster that the run's log names."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from dagster import DagsterInstance, DagsterRun

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import ConfigurationError, DagsterSlurmError
from dagster_slurm.job.cancelling import Canceller
from dagster_slurm.pipes.unfinished import Unfinished, note_finished, runs_with_unfinished, unfinished_of
from dagster_slurm.reconcile.decision import ReconciledRun, Verdict
from dagster_slurm.resources.slurm import SlurmResource
from dagster_slurm.transport import LocalTransport
from dagster_slurm.transport.shell_transport import THIS_MACHINE

_CONFIRM_SECONDS = 60.0


def cancelled_runs(instance: DagsterInstance, run_ids: list[str] | None, *, dry_run: bool) -> Iterator[ReconciledRun]:
    """Cancel what is left to be cancelled, of these runs or of all.

    That of this machine's own Slurm is cancelled here, anything else on the cluster of `SlurmResource.from_env()`.
    """
    for run in runs_with_unfinished(instance):
        if run_ids is not None and run.run_id not in run_ids:
            continue
        orders = list(unfinished_of(instance, run))
        if dry_run:
            jobs = ", ".join(job.job_id for each in orders for job in each.order.jobs) or "not known"
            yield _cancellation(run, f"its jobs are still to be cancelled ({jobs}); would be cancelled", settled=False)
            continue
        left = "; ".join(filter(None, map(_left_of, orders)))
        if not left:
            note_finished(instance, run)
        done = f"its jobs are still to be cancelled: {left}" if left else "its jobs were cancelled"
        yield _cancellation(run, done, settled=not left)


def _left_of(unfinished: Unfinished) -> str:
    try:
        with _cluster_of(unfinished) as cluster:
            return _left(cluster, unfinished)
    except DagsterSlurmError as error:
        return error.message


@contextmanager
def _cluster_of(unfinished: Unfinished) -> Iterator[SlurmCluster]:
    """Where the jobs are."""
    if unfinished.host == THIS_MACHINE:
        # Dagster's storage may be shared, and each machine calls itself so.
        if unfinished.machine != socket.gethostname():
            there = unfinished.machine or "another machine"
            raise ConfigurationError(f"they are those of {there}, which has Slurm itself: run `reconcile` on it")
        with closing(LocalTransport(channels=1)) as transport:
            yield SlurmCluster(transport, remote_base=unfinished.base)
        return
    cluster = SlurmResource.from_env().connect().cluster
    if unfinished.host != cluster.host:
        raise ConfigurationError(f"they are on {unfinished.host}, and SLURM_EDGE_NODE_HOST is {cluster.host}")
    yield cluster


def _left(cluster: SlurmCluster, unfinished: Unfinished) -> str:
    canceller = Canceller(cluster)
    withdrawal = canceller.carry_out(unfinished.order)
    until = time.monotonic() + _CONFIRM_SECONDS
    while (left := canceller.left_of(withdrawal)) and not withdrawal.undone and time.monotonic() < until:
        time.sleep(1.0)
    return left


def _cancellation(run: DagsterRun, done: str, *, settled: bool) -> ReconciledRun:
    return ReconciledRun(run.run_id, run.job_name, Verdict.CANCELLING, done, settled=settled)
