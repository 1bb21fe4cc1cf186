"""`dagster-slurm jobs`: the jobs of this user's runs on the cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from dagster_slurm.cli.reach import cluster_of, with_cluster_options
from dagster_slurm.cli.terminal import say

if TYPE_CHECKING:
    from dagster_slurm.housekeeping.rows import WordOf


@click.command()
@with_cluster_options
@click.option(
    "--all", "everything", is_flag=True, help="Show older jobs as well, as far as their directories are there."
)
@click.option("--run", "of_run", default="", metavar="ID", help="Show those of one run, older ones too.")
@click.option("--json", "in_json", is_flag=True, help="Print JSON.")
def jobs(*, prefix: str, local: bool, remote_base: str | None, everything: bool, of_run: str, in_json: bool) -> None:
    """Show the jobs of this user's runs: those that wait or run, and those that ended some minutes ago.

    Reads what SlurmResource.from_env() reads: SLURM_EDGE_NODE_* for the way to the login node, SLURM_REMOTE_BASE for
    the directory of the runs. If DAGSTER_HOME is set, the run that works on a job is shown with its status there.
    A job that was adopted by another run is shown with that one.
    """
    # `--help` needs none of it.
    from dagster_slurm.housekeeping.rows import job_rows, table  # noqa: PLC0415
    from dagster_slurm.housekeeping.seen import survey  # noqa: PLC0415

    everything = everything or bool(of_run)
    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster, _words() as word:
        seen = survey(cluster, is_open=lambda job: everything and job.queued is None)
        rows = job_rows(seen, word, everything=everything, of_run=of_run)
        host, base = cluster.host, cluster.base()
    if seen.notice:
        say(f"Jobs that have left the queue are shown without Slurm's accounting: {seen.notice}", err=True)
    if in_json:
        told = {"host": host, "remote_base": base, "jobs": [row.as_json() for row in rows]}
        say(json.dumps(told, indent=2))
    elif rows:
        say("\n".join(table(rows)))
    elif of_run:
        say(f"There is no job of run {of_run} in {base} on {host}.")
    elif everything:
        say(f"There is no job of a run in {base} on {host}.")
    else:
        say(f"No job of a run waits or runs on {host}, and none ended just now; --all shows older ones.")


@contextmanager
def _words() -> Iterator[WordOf]:
    """What Dagster's records say of a piece of work; Dagster, which takes a second to load, is loaded if it has any."""
    if not os.environ.get("DAGSTER_HOME"):
        from dagster_slurm.housekeeping.rows import unknown  # noqa: PLC0415

        yield unknown
        return
    from dagster_slurm.housekeeping.dagster_records import records_of_environment  # noqa: PLC0415

    with records_of_environment() as records:
        yield records.word
