"""`dagster-slurm logs`: what payloads have said, and say."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from dagster_slurm.cli.reach import cluster_of, with_cluster_options, words
from dagster_slurm.cli.terminal import examples, say

if TYPE_CHECKING:
    from dagster_slurm.errors import InvalidRequestError
    from dagster_slurm.housekeeping.chosen import Chosen
    from dagster_slurm.housekeeping.payload_logs import Said


@click.command(
    epilog=examples("dagster-slurm logs 4711", "dagster-slurm logs 4712_3 --follow", "dagster-slurm logs 5e3c7c44")
)
@click.argument("name", metavar="JOB|RUN")
@with_cluster_options
@click.option("-f", "--follow", is_flag=True, help="Go on as long as there are more, until the job ends, or Ctrl-C.")
def logs(*, name: str, prefix: str, local: bool, remote_base: str | None, follow: bool) -> None:
    """Print what the payload of a job, of a task (12_3), or of all jobs of a run has said; stderr on stderr.

    The files are those of the run's directory on the cluster. Where that is gone, as after a success, what Dagster has
    captured of the run is printed, if DAGSTER_HOME is set.

    Exit status: 0 there was something to read, 1 it is not known, or nothing is left of it.
    """
    from dagster_slurm.errors import InvalidRequestError  # noqa: PLC0415 - `--help` needs none of it
    from dagster_slurm.housekeeping.chosen import chosen  # noqa: PLC0415
    from dagster_slurm.housekeeping.payload_logs import PayloadLogs, sources_of  # noqa: PLC0415
    from dagster_slurm.housekeeping.seen import survey  # noqa: PLC0415

    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster, words() as word:
        try:
            found = chosen(survey(cluster, is_open=lambda job: False), word(), name)
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
    from dagster_slurm.housekeeping.captured_logs import captured_logs  # noqa: PLC0415 - dagster is slow
    from dagster_slurm.pipes.dagster_private import instance_of_environment  # noqa: PLC0415

    with instance_of_environment() as instance:
        found = list(captured_logs(instance, name))
    if not found:
        raise error
    for each in found:
        say(f"==> {', '.join(each.steps)}, run {each.run_id}, as Dagster has captured it <==", err=True)
        say(each.stdout, end="")
        say(each.stderr, err=True, end="")
