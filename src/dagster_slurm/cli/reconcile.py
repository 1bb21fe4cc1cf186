"""`dagster-slurm reconcile`: finishes the runs whose processes have died, without a daemon."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from dagster_slurm.cli.terminal import examples, say

_PYTHON_FILE = click.Path(exists=True, dir_okay=False, resolve_path=True)
_DIRECTORY = click.Path(exists=True, file_okay=False, resolve_path=True)


@click.command(
    epilog=examples(
        "dagster-slurm reconcile --dry-run",
        "dagster-slurm reconcile",
        "dagster-slurm reconcile --run 5e3c7c44-9d2d-4f1c-b7bb-31cd3a8ff0a5",
    )
)
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
@click.option("--no-retry", is_flag=True, help="Only mark the runs; execute nothing.")
@click.option("--run", "run_ids", metavar="ID", multiple=True, help="Only this run, also one that has failed.")
@click.option("--gone-host", "gone_hosts", metavar="HOST", multiple=True, help="This machine is gone for good.")
@click.option(
    "--older-than",
    "older_than_seconds",
    metavar="SECONDS",
    type=float,
    default=0.0,
    help="Leave runs alone of which something was recorded in the last so many seconds.",
)
@click.option("--parallel", "max_parallel", default=4, show_default=True, help="How many retries run at a time.")
@click.option("-f", "--python-file", type=_PYTHON_FILE, help="The file the code is in, if not where the run says.")
@click.option("-m", "--module-name", help="The module the code is in.")
@click.option("-a", "--attribute", help="The name of the definitions in the file or module.")
@click.option("-d", "--working-directory", type=_DIRECTORY, help="Where modules are looked for.")
@click.pass_context
def reconcile(
    context: click.Context,
    *,
    dry_run: bool,
    no_retry: bool,
    run_ids: tuple[str, ...],
    gone_hosts: tuple[str, ...],
    older_than_seconds: float,
    max_parallel: int,
    python_file: str | None,
    module_name: str | None,
    attribute: str | None,
    working_directory: str | None,
) -> None:
    """Find the runs that Dagster holds for running though their processes have died, mark them and finish them.

    A run is marked failed and retried from the point of failure: the retry takes up its Slurm jobs, collects those
    that have ended meanwhile, and goes on. No job is cancelled or submitted twice. Runs of which a process lives, and
    those of other machines, are left alone. DAGSTER_HOME says where the runs are.

    Exit status: 0 nothing is left undone, 1 something is, 2 wrong usage.
    """
    if (python_file is None) == (module_name is None) and (python_file or attribute or working_directory):
        raise click.UsageError("Name the code with either -f or -m; -a and -d say more about one of them.")

    from dagster_slurm.pipes.dagster_private import instance_of_environment  # noqa: PLC0415 - importing dagster is slow
    from dagster_slurm.reconcile import Code, Plan, reconciled_runs  # noqa: PLC0415

    named = python_file or module_name
    plan = Plan(
        retry=not no_retry,
        run_ids=run_ids or None,
        older_than_seconds=older_than_seconds,
        gone_hosts=gone_hosts,
        dry_run=dry_run,
        code=Code(python_file, module_name, attribute, working_directory) if named else None,
        max_parallel=max_parallel,
    )
    results = []
    with instance_of_environment() as instance, _leaving_interrupts_to_retries():
        for result in reconciled_runs(instance, plan, notice=lambda line: say(line, err=True)):
            results.append(result)
            say(str(result))
    if not results:
        say("No run of Slurm jobs is in progress.")
    context.exit(0 if all(result.settled for result in results) else 1)


@contextmanager
def _leaving_interrupts_to_retries() -> Iterator[None]:
    """Outlive Ctrl-C, which every retry gets as well: each knows what it means for it, and its end is still told."""

    def tell(number: int, frame: FrameType | None) -> None:
        del number, frame
        say("Waiting for the retries to go on or to end; their jobs are not cancelled.", err=True)

    before = signal.signal(signal.SIGINT, tell)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
