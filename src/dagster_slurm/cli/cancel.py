"""`dagster-slurm cancel`: cancels jobs of runs, and nobody else's."""

from __future__ import annotations

import click

from dagster_slurm.cli.reach import cluster_of, with_cluster_options, words
from dagster_slurm.cli.terminal import examples, say


@click.command(
    epilog=examples(
        "dagster-slurm cancel 4711",
        "dagster-slurm cancel 4712_3 --yes",
        "dagster-slurm cancel 5e3c7c44 --yes",
    )
)
@click.argument("names", metavar="JOB|RUN...", nargs=-1, required=True)
@with_cluster_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def cancel(
    context: click.Context, *, names: tuple[str, ...], prefix: str, local: bool, remote_base: str | None, yes: bool
) -> None:
    """Cancel jobs, tasks of arrays (12_3), or all jobs of a run, named by how its id begins.

    A number is not a job: it is cancelled if Slurm has it under the name, or in the directory, that is ours. The run
    fails, as the job has not succeeded; to end a run with its jobs, terminate it in Dagster.

    Exit status: 0 all have ended or end now, 1 one could not be cancelled, 2 wrong usage.
    """
    from dagster_slurm.housekeeping.chosen import chosen  # noqa: PLC0415 - `--help` needs none of it
    from dagster_slurm.housekeeping.seen import survey  # noqa: PLC0415
    from dagster_slurm.job.cancelling import Canceller, Order  # noqa: PLC0415

    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster, words() as word:
        seen = survey(cluster, is_open=lambda job: False)
        found = {each.job_id: each for name in names for each in chosen(seen, word(), name)}
        live = {job_id: each for job_id, each in found.items() if each.is_live}
        for each in found.values():
            say(each.title if each.is_live else f"{each.title} has ended.")
        if not live:
            return
        if not yes:
            click.confirm(f"Cancel {len(live)} {'job' if len(live) == 1 else 'jobs'}?", abort=True)
        # Slurm is asked once more whose they are, just before.
        done = Canceller(cluster).carry_out(Order((), tuple(each.handle for each in live.values())))
    for job in done.jobs:
        say(f"Slurm job {job.job_id} is cancelled.")
    for entry in done.strangers:
        say(f"Slurm job {entry.job_id} is another's by now ({entry.name}), and is left alone.", err=True)
    for problem in done.undone:
        say(problem, err=True)
    context.exit(1 if done.strangers or done.undone else 0)
