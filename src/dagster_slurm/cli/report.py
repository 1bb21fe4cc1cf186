"""`dagster-slurm report`: what jobs have asked for and what they used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import click

from dagster_slurm.cli.reach import cluster_of, seconds, with_cluster_options
from dagster_slurm.cli.terminal import examples, say, width

if TYPE_CHECKING:
    from dagster_slurm.cluster import SlurmCluster
    from dagster_slurm.housekeeping.usage import Usage


@click.command(
    epilog=examples(
        "dagster-slurm report",
        "dagster-slurm report --since 30d --by asset",
        "dagster-slurm report 5e3c7c44",
        "dagster-slurm report 4711",
    )
)
@click.argument("name", metavar="[JOB|RUN]", required=False)
@with_cluster_options
@click.option(
    "--since",
    "since_seconds",
    callback=seconds,
    default="7d",
    show_default=True,
    metavar="DURATION",
    help="Of which jobs: those that were in the queue, or ran, since then.",
)
@click.option("--run", "of_run", default="", metavar="ID", help="Of the jobs of one run, by how its id begins.")
@click.option(
    "--by",
    type=click.Choice(["run", "asset"]),
    default="run",
    show_default=True,
    help="One row for each asset in each run, or for each asset.",
)
@click.option("--json", "in_json", is_flag=True, help="Print JSON.")
def report(
    *,
    name: str | None,
    prefix: str,
    local: bool,
    remote_base: str | None,
    since_seconds: float,
    of_run: str,
    by: str,
    in_json: bool,
) -> None:
    """Compare what jobs of runs have asked for with what they used; of one JOB, in the words of Slurm's seff.

    Slurm's accounting tells it, also of jobs that ended long ago and whose directories are gone. Memory is the most on
    a node, and left out of jobs that were too short for Slurm to take a sample. A job array has a part for each task.

    Exit status: 0 done, 1 there is no such job of a run, or no accounting, 2 wrong usage.
    """
    from dagster_slurm.housekeeping.chosen import LEAST_OF_A_RUN  # noqa: PLC0415 - as below
    from dagster_slurm.housekeeping.tables import wrapped  # noqa: PLC0415 - `--help` needs none of it
    from dagster_slurm.housekeeping.usage import as_json, lines_of, sums, text_of  # noqa: PLC0415
    from dagster_slurm.slurm.job_id import JobId  # noqa: PLC0415

    number = name if name and JobId.find(name) else None
    since = datetime.now(timezone.utc) - timedelta(seconds=since_seconds)
    found: Sequence[Usage] = ()
    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster:
        if number:
            found = [each for each in _usages(cluster, None, number) if each.run_id.startswith(of_run)]
        job = number if found else None
        # The id of a run may begin with digits alone.
        if not number or (not job and len(number) >= LEAST_OF_A_RUN):
            beginning = name or of_run
            found = [each for each in _usages(cluster, since, None) if each.run_id.startswith(beginning)]
    if number and not found:
        raise _no_job(number)
    rows = sums(found, by_run=by == "run")
    if in_json:
        say(json.dumps({"jobs": as_json(found), "rows": as_json(rows)}, indent=2))
        return
    if job:
        say("\n\n".join("\n".join(text_of(each)) for each in found))
        return
    total = (
        f"{len(found)} jobs, {sum(each.node_hours for each in found):.2f} node-hours, since {since:%Y-%m-%d %H:%M} UTC."
    )
    say("\n".join([*(lines_of(rows, width()) if rows else []), "", *wrapped(total, width())]).lstrip("\n"))


def _usages(cluster: SlurmCluster, since: datetime | None, job: str | None) -> Sequence[Usage]:
    from dagster_slurm.cluster.look import look_at_all  # noqa: PLC0415
    from dagster_slurm.errors import InvalidRequestError  # noqa: PLC0415
    from dagster_slurm.housekeeping.usage import usages  # noqa: PLC0415

    cluster.refuse_foreign_base()
    records = cluster.usage(since=since, job_ids=[job] if job else ())
    if records is None:
        raise InvalidRequestError(
            f"{cluster.host} keeps no accounting",
            hint="The metadata of each materialisation has what its job told itself.",
        )
    return usages(records, look_at_all(cluster))


def _no_job(job: str) -> Exception:
    from dagster_slurm.errors import InvalidRequestError  # noqa: PLC0415

    return InvalidRequestError(
        f"Slurm's accounting has no job {job} of a run", hint="A job of another kind is `seff`'s, on the cluster."
    )
