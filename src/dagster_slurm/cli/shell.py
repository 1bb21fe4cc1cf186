"""`dagster-slurm shell`: a shell beside the payload of a job that runs."""

from __future__ import annotations

import shlex
import subprocess

import click

from dagster_slurm.cli.reach import cluster_of, with_cluster_options, words
from dagster_slurm.cli.terminal import examples, say


@click.command(
    epilog=examples("dagster-slurm shell 4711", "dagster-slurm shell 4712_3", "dagster-slurm shell 4711 --node n2")
)
@click.argument("name", metavar="JOB")
@with_cluster_options
@click.option("--node", help="Which node of the job; its first one by default.")
@click.pass_context
def shell(
    context: click.Context, *, name: str, prefix: str, local: bool, remote_base: str | None, node: str | None
) -> None:
    """Open a shell on a node of a job that runs, in the directory of its payload.

    It is a step of the job (srun --overlap), shares its CPUs, memory and GPUs, and ends with it. A task of an array
    is named as 12_3.

    Exit status: that of the shell.
    """
    from dagster_slurm.errors import InvalidRequestError  # noqa: PLC0415 - `--help` needs none of it
    from dagster_slurm.housekeeping.chosen import chosen  # noqa: PLC0415
    from dagster_slurm.housekeeping.seen import survey  # noqa: PLC0415
    from dagster_slurm.slurm.commands import shell_in_job  # noqa: PLC0415
    from dagster_slurm.transport.openssh import run_on_terminal  # noqa: PLC0415
    from dagster_slurm.variables import connection_from  # noqa: PLC0415

    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster, words() as word:
        found = [each for each in chosen(survey(cluster, is_open=lambda job: False), word(), name) if each.is_live]
    numbers = [each.own_number for each in found]
    if len(found) != 1 or numbers[0] is None:
        waits = "waits, or is an array: name a task of it that runs, as 12_3" if found else "runs no more"
        raise InvalidRequestError(f"There is no shell in {name}: it {waits}")
    each = found[0]
    argv = shell_in_job(numbers[0], each.place.work if each.place else None, node)
    say(f"A shell beside {each.title}; Ctrl-D ends it.", err=True)
    if local:
        context.exit(subprocess.run(argv, check=False).returncode)
    context.exit(run_on_terminal(connection_from(prefix), shlex.join(argv)))
