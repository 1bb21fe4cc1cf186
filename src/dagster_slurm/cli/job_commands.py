"""`dagster-slurm cancel`, `logs` and `shell`: what is done with jobs that are named."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from dagster_slurm.cli import cluster_of, examples, say, way_of, with_cluster_options, words
from dagster_slurm.text import counted

if TYPE_CHECKING:
    from dagster_slurm.errors import InvalidRequestError
    from dagster_slurm.housekeeping.named_jobs import Chosen, Said


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
    """Cancel jobs, tasks of arrays (12_3), components (12+1), or all jobs of a run, named by how its id begins.

    A number is not a job: it is cancelled if Slurm has it under the name, or in the directory, that is ours. The run
    fails, as the job has not succeeded; to end a run with its jobs, terminate it in Dagster.

    Exit status: 0 all have ended or end now, 1 one could not be cancelled, 2 wrong usage.
    """
    from dagster_slurm.housekeeping.listed_jobs import snapshot  # noqa: PLC0415
    from dagster_slurm.housekeeping.named_jobs import chosen  # noqa: PLC0415 - `--help` needs none of it
    from dagster_slurm.job.cancelling import Canceller, Order  # noqa: PLC0415
    from dagster_slurm.slurm.job_id import title_of  # noqa: PLC0415

    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster, words() as word:
        seen = snapshot(cluster, is_open=lambda job: False)
        found = {each.job_id: each for name in names for each in chosen(seen, word(), name)}
        live = {job_id: each for job_id, each in found.items() if each.is_live}
        for each in found.values():
            say(each.title if each.is_live else f"{each.title} has ended.")
        if not live:
            return
        if not yes:
            click.confirm(f"Cancel {counted(len(live), 'job')}?", abort=True)
        # Slurm is asked once more whose they are, just before.
        done = Canceller(cluster).carry_out(Order((), tuple(each.handle for each in live.values())))
    for job in done.jobs:
        say(f"{title_of(job.job_id)} is cancelled.")
    for entry in done.strangers:
        say(f"Slurm job {entry.job_id} is another's by now ({entry.name}), and is left alone.", err=True)
    for problem in done.undone:
        say(problem, err=True)
    context.exit(1 if done.strangers or done.undone else 0)


@click.command(
    epilog=examples("dagster-slurm logs 4711", "dagster-slurm logs 4712_3 --follow", "dagster-slurm logs 5e3c7c44")
)
@click.argument("name", metavar="JOB|RUN")
@with_cluster_options
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends, or Ctrl-C.")
def logs(*, name: str, prefix: str, local: bool, remote_base: str | None, follow: bool) -> None:
    """Print what the payload of a job, of a task (12_3) or component (12+1), or of all jobs of a run has said.

    Its stderr is printed on stderr. The files are those of the run's directory on the cluster. Where that
    is gone, as after a success, what Dagster has captured of the run is printed, if DAGSTER_HOME is set.

    Exit status: 0 there was something to read, 1 the job is not known, or nothing is left of it.
    """
    from dagster_slurm.errors import InvalidRequestError  # noqa: PLC0415 - `--help` needs none of it
    from dagster_slurm.housekeeping.listed_jobs import snapshot  # noqa: PLC0415
    from dagster_slurm.housekeeping.named_jobs import (  # noqa: PLC0415
        PayloadLogs,
        chosen,
        sources_of,
    )

    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster, words() as word:
        try:
            found = chosen(snapshot(cluster, is_open=lambda job: False), word(), name)
        except InvalidRequestError as error:
            _captured(name, error)
            return
        sources = sources_of(found)
        if not sources:
            run_id = found[0].row.run_id
            _captured(run_id, InvalidRequestError(f"The directory of {found[0].title} is gone", hint=_WHERE))
            return
        for each in found:
            _tell_what_waits(each)
        reader = PayloadLogs(cluster, sources)
        with suppress(KeyboardInterrupt):
            _print(reader.followed() if follow else reader.there(), has_several=len(sources) > 1)


_WHERE = "Dagster may have captured what it said: set DAGSTER_HOME, or look at the run in the UI."


def _tell_what_waits(each: Chosen) -> None:
    if each.row.state == "PENDING":
        say(f"{each.title} waits ({each.row.reason or 'no reason is known'}).", err=True)


def _print(said: Iterable[Said], *, has_several: bool) -> None:
    last = None
    for each in said:
        if has_several and each.source is not last:
            say(f"==> {each.source.title} <==")
            last = each.source
        say(each.text, err=each.is_error, end="")


def _captured(name: str, error: InvalidRequestError) -> None:
    """Print what Dagster has captured of a run; without anything, it is the error."""
    if not os.environ.get("DAGSTER_HOME") or name.isdecimal():
        raise error
    from dagster_slurm.housekeeping.dagster_records import captured_logs  # noqa: PLC0415 - dagster is slow
    from dagster_slurm.pipes.dagster_runs import instance_of_environment  # noqa: PLC0415

    with instance_of_environment() as instance:
        found = list(captured_logs(instance, name))
    if not found:
        raise error
    for each in found:
        say(f"==> {', '.join(each.steps)}, run {each.run_id}, as Dagster has captured it <==", err=True)
        say(each.stdout, end="")
        say(each.stderr, err=True, end="")


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
    is named as 12_3, a component as 12+1.

    Exit status: that of the shell.
    """
    from dagster_slurm.errors import InvalidRequestError  # noqa: PLC0415 - `--help` needs none of it
    from dagster_slurm.housekeeping.listed_jobs import snapshot  # noqa: PLC0415
    from dagster_slurm.housekeeping.named_jobs import chosen  # noqa: PLC0415
    from dagster_slurm.slurm.commands import shell_in_job  # noqa: PLC0415
    from dagster_slurm.transport.openssh import run_on_terminal  # noqa: PLC0415

    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster, words() as word:
        found = [each for each in chosen(snapshot(cluster, is_open=lambda job: False), word(), name) if each.is_live]
    numbers = [each.own_number for each in found]
    if len(found) != 1 or numbers[0] is None:
        if found:
            raise InvalidRequestError(
                f"There is no shell in {name}: it waits, or is an array: name a task of it that runs, as 12_3"
            )
        raise InvalidRequestError(
            f"There is no shell in {name}: it runs no more", hint=f"`dagster-slurm logs {name}` shows its end."
        )
    each = found[0]
    argv = shell_in_job(numbers[0], each.place.work if each.place else None, node, each.component)
    say(f"A shell beside {each.title}; Ctrl-D ends it.", err=True)
    if local:
        context.exit(subprocess.run(argv, check=False).returncode)
    context.exit(run_on_terminal(way_of(prefix), shlex.join(argv)))
