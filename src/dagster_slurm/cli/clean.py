"""`dagster-slurm clean`: what runs have left over on the cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import click

from dagster_slurm.cli.reach import cluster_of, seconds, with_cluster_options
from dagster_slurm.cli.terminal import examples, say, width
from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.housekeeping.cleaning import (
    Leftover,
    Terms,
    as_json,
    is_open,
    leftovers,
    lines_of,
    measured,
    remove,
    sizes_kib,
    summary,
)
from dagster_slurm.housekeeping.seen import survey
from dagster_slurm.housekeeping.tables import wrapped


@click.command(
    epilog=examples(
        "dagster-slurm clean",
        "dagster-slurm clean --yes --older-than 2w",
        "dagster-slurm clean --all --json",
    )
)
@with_cluster_options
@click.option(
    "--older-than",
    "older_than_seconds",
    callback=seconds,
    default="3d",
    show_default=True,
    metavar="DURATION",
    help="Keep what failed runs have left for so long.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Of what is older, remove also results that were never collected, checkpoints, and the "
    "directories of runs that Dagster does not know.",
)
@click.option("--yes", is_flag=True, help="Remove it; without, it is only listed.")
@click.option("--json", "in_json", is_flag=True, help="Print JSON.")
@click.pass_context
def clean(
    context: click.Context,
    *,
    prefix: str,
    local: bool,
    remote_base: str | None,
    older_than_seconds: float,
    everything: bool,
    yes: bool,
    in_json: bool,
) -> None:
    """List what runs have left over on the cluster and, with --yes, remove what nobody needs any more.

    Never removed is what belongs to a job that has not ended. Dagster's records, in DAGSTER_HOME, decide on the rest:
    what belongs to a step that has succeeded is removed, to a run in progress is kept, to a run that has failed or was
    canceled is removed when it is old enough. If Slurm does not answer, nothing is removed.

    Exit status: 0 done, 1 something could not be removed or looked at, 2 wrong usage.
    """
    terms = Terms(older_than_seconds=older_than_seconds, everything=everything)
    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster:
        found = _found(cluster, terms)
        done = _removed(cluster, found) if yes else None
        base = cluster.base()
    if in_json:
        say(json.dumps(as_json(found, done, base=base), indent=2))
    elif found:
        lines = wrapped(summary(found, done), width())
        say("\n".join([*lines_of(found, done, width()), "", *lines]))
    else:
        say(f"Nothing is left over in {base} on {cluster.host}.")
    context.exit(0 if all((done or {}).values()) else 1)


def _found(cluster: SlurmCluster, terms: Terms) -> list[Leftover]:
    from dagster_slurm.housekeeping.dagster_records import records_of_environment  # noqa: PLC0415 - dagster is slow

    with records_of_environment() as records:
        seen = survey(cluster, is_open=is_open)
        found = leftovers(seen, records.word, replace(terms, has_records=records.are_there))
    if seen.notice:
        say(f"Jobs without a witness of their end are kept: {seen.notice}", err=True)
    return measured(found, partial(sizes_kib, cluster))


def _removed(cluster: SlurmCluster, found: list[Leftover]) -> dict[Leftover, bool]:
    """Remove what is to be removed, in one step, and tell of each whether it is gone."""
    removable = [each for each in found if each.decision.removed]
    left = remove(cluster, [order for each in removable for order in each.orders])
    return {each: not any(" ".join(order.split(" ")[:2]) in left for order in each.orders) for each in removable}
