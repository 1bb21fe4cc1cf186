"""`dagster-slurm jobs` and `report`: the jobs of this user's runs, and what they have used of what they asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import click

from dagster_slurm.cli import cluster_of, examples, say, seconds, width, with_cluster_options, words
from dagster_slurm.text import counted

if TYPE_CHECKING:
    from dagster_slurm.cluster import SlurmCluster
    from dagster_slurm.housekeeping.jobs_table import JobRow, Wanted, WordOf
    from dagster_slurm.housekeeping.usage import Usage

_WATCH_SECONDS = 15
_LEAST_SECONDS = 5
# A cluster that takes long to answer is asked less often.
_PAUSES_FOR_AN_ANSWER = 10


def _states(context: click.Context, option: click.Parameter, value: str | None) -> frozenset[str]:
    """`PD,RUNNING` as Slurm's long names."""
    from dagster_slurm.errors import SlurmOutputError  # noqa: PLC0415 - `--help` needs none of it
    from dagster_slurm.slurm.states import parse_job_state  # noqa: PLC0415

    try:
        return frozenset(parse_job_state(each).value for each in value.split(",")) if value else frozenset()
    except SlurmOutputError as error:
        problem = f"{error.message}. States are those of squeue, such as R, PD, RUNNING or PENDING."
        raise click.BadParameter(problem, context, option) from error


@click.command(
    epilog=examples(
        "dagster-slurm jobs",
        "dagster-slurm jobs --state PD,R --watch",
        "dagster-slurm jobs --run 5e3c7c44",
        "dagster-slurm jobs --all --json",
    )
)
@with_cluster_options
@click.option("--all", "everything", is_flag=True, help="Show older jobs as well, whose directories still exist.")
@click.option("--run", "of_run", default="", metavar="ID", help="Show those of one run, older ones too.")
@click.option("--state", "states", callback=_states, metavar="STATE,...", help="Show those in these states: PD, R ...")
@click.option(
    "--watch",
    "watch_seconds",
    is_flag=False,
    flag_value=_WATCH_SECONDS,
    type=click.IntRange(min=_LEAST_SECONDS),
    metavar="[SECONDS]",
    help=f"Look again and again, every {_WATCH_SECONDS} seconds or so many, until Ctrl-C.",
)
@click.option("--json", "in_json", is_flag=True, help="Print JSON.")
def jobs(
    *,
    prefix: str,
    local: bool,
    remote_base: str | None,
    everything: bool,
    of_run: str,
    states: frozenset[str],
    watch_seconds: int | None,
    in_json: bool,
) -> None:
    """Show the jobs of this user's runs: those that wait or run, and those that ended some minutes ago.

    Reads what SlurmResource.from_env() reads: SLURM_EDGE_NODE_* for the way to the login node, SLURM_REMOTE_BASE for
    the directory of the runs. If DAGSTER_HOME is set, the run that works on a job is shown with its status.
    A job that was adopted by another run is shown with that one.

    On a terminal the table is as wide as that; piped, or as JSON, it has everything.
    """
    # `--help` needs none of it.
    from dagster_slurm.housekeeping.jobs_table import Wanted  # noqa: PLC0415

    if in_json and watch_seconds:
        raise click.UsageError("--watch and --json exclude each other.")
    wanted = Wanted(everything=everything or bool(of_run), of_run=of_run, states=states)
    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster, words() as word:
        if watch_seconds:
            with suppress(KeyboardInterrupt):
                _watch(lambda: _shown(cluster, word(), wanted), watch_seconds)
        elif in_json:
            found = [row.as_json() for row in _rows(cluster, word(), wanted)]
            told = {"host": cluster.host, "remote_base": cluster.base(), "jobs": found}
            say(json.dumps(told, indent=2))
        else:
            say(_shown(cluster, word(), wanted))


def _watch(look: Callable[[], str], seconds: float) -> None:
    from dagster_slurm.errors import ConnectionFailedError, SlurmUnavailableError  # noqa: PLC0415

    has_answered = False
    while True:
        began = time.monotonic()
        try:
            shown = look()
        except (ConnectionFailedError, SlurmUnavailableError) as error:
            if not has_answered:
                raise
            # It was there, and may be again. A login that is refused is none of these.
            shown = f"{error.message}; it is asked again."
        has_answered = True
        took = time.monotonic() - began
        if width() is not None:
            click.clear()
        say(f"{datetime.now():%H:%M:%S}\n\n{shown}")
        time.sleep(max(seconds, took * _PAUSES_FOR_AN_ANSWER))


def _rows(cluster: SlurmCluster, word: WordOf, wanted: Wanted) -> Sequence[JobRow]:
    from dagster_slurm.housekeeping.jobs_table import job_rows  # noqa: PLC0415
    from dagster_slurm.housekeeping.listed_jobs import snapshot  # noqa: PLC0415

    seen = snapshot(cluster, is_open=wanted.is_open)
    if seen.notice:
        say(f"Jobs that have left the queue are shown without Slurm's accounting: {seen.notice}", err=True)
    return job_rows(seen, word, wanted)


def _shown(cluster: SlurmCluster, word: WordOf, wanted: Wanted) -> str:
    from dagster_slurm.housekeeping.jobs_table import lines_of  # noqa: PLC0415
    from dagster_slurm.housekeeping.tables import wrapped  # noqa: PLC0415

    rows = _rows(cluster, word, wanted)
    return "\n".join(lines_of(rows, width()) if rows else wrapped(_nothing(cluster, wanted), width()))


def _nothing(cluster: SlurmCluster, wanted: Wanted) -> str:
    within = f" in {cluster.base()} on {cluster.host}"
    in_states = f" in the state {' or '.join(sorted(wanted.states))}" if wanted.states else ""
    if wanted.of_run:
        return f"There is no job of run {wanted.of_run}{in_states}{within}."
    if wanted.everything:
        return f"There is no job of a run{in_states}{within}."
    if in_states:
        return f"There is no job of a run{in_states} on {cluster.host}; --all looks among older ones, too."
    return f"No job of a run waits or runs on {cluster.host}, and none ended just now; --all shows older ones."


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
    from dagster_slurm.housekeeping.named_jobs import LEAST_OF_A_RUN  # noqa: PLC0415 - as below
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
        f"{counted(len(found), 'job')}, {sum(each.node_hours for each in found):.2f} node-hours, "
        f"since {since:%Y-%m-%d %H:%M} UTC."
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
            hint="The metadata of each materialisation has the figures that its job noted itself.",
        )
    return usages(records, look_at_all(cluster))


def _no_job(job: str) -> Exception:
    from dagster_slurm.errors import InvalidRequestError  # noqa: PLC0415

    return InvalidRequestError(
        f"Slurm's accounting has no job {job} of a run", hint="A job of another kind is `seff`'s, on the cluster."
    )
