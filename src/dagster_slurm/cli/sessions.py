"""`dagster-slurm sessions`: the allocations that runs share."""

from __future__ import annotations

import json

import click

from dagster_slurm.cli import cluster_of, examples, say, width, with_cluster_options


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "dagster-slurm sessions list", "dagster-slurm sessions list --json", "dagster-slurm sessions end nightly"
    ),
)
@click.pass_context
def sessions(context: click.Context) -> None:
    """List the sessions of this user, or end one; without a command, list them."""
    if context.invoked_subcommand is None:
        context.invoke(list_sessions, prefix="SLURM_EDGE_NODE_", local=False, remote_base=None, in_json=False)


@sessions.command("list", epilog=examples("dagster-slurm sessions list", "dagster-slurm sessions list --json"))
@with_cluster_options
@click.option("--json", "in_json", is_flag=True, help="Print JSON.")
def list_sessions(*, prefix: str, local: bool, remote_base: str | None, in_json: bool) -> None:
    """Show the sessions whose allocations wait or run, with how many steps run and wait in each."""
    from dagster_slurm.housekeeping.listed_jobs import snapshot  # noqa: PLC0415 - `--help` needs none of it
    from dagster_slurm.housekeeping.sessions import lines_of, session_rows  # noqa: PLC0415

    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster:
        rows = session_rows(snapshot(cluster, is_open=lambda job: False))
        if in_json:
            say(json.dumps({"host": cluster.host, "sessions": [row.as_json() for row in rows]}, indent=2))
        else:
            say("\n".join(lines_of(rows, width())) if rows else f"There is no session on {cluster.host}.")


@sessions.command("end", epilog=examples("dagster-slurm sessions end nightly", "dagster-slurm sessions end 4711"))
@click.argument("name", metavar="NAME|JOB")
@with_cluster_options
def end(*, name: str, prefix: str, local: bool, remote_base: str | None) -> None:
    """Have a session end: as soon as nothing runs or waits in it, or at once where it waits in the queue.

    Steps that are asked for later go to a new allocation. To end what runs as well, use `dagster-slurm cancel JOB`.

    Exit status: 0 it ends, 1 there is none of that name.
    """
    from dagster_slurm.housekeeping.listed_jobs import snapshot  # noqa: PLC0415 - `--help` needs none of it
    from dagster_slurm.housekeeping.sessions import end_session  # noqa: PLC0415

    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster:
        rows = end_session(cluster, snapshot(cluster, is_open=lambda job: False), name)
    for row in rows:
        left = row.steps_running + row.steps_waiting
        after = f" after its steps that run or wait ({left})" if left else ""
        say(f"{row.title[0].upper()}{row.title[1:]}, job {row.job_id}, ends{after}.")
