"""`dagster-slurm plan` and `reconcile`, which take the code that Dagster loads."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from dagster_slurm.cli import examples, say, width, with_cluster_options

if TYPE_CHECKING:
    from dagster_slurm.resources.job_plan import JobPlan

_FILE = click.Path(exists=True, dir_okay=False, resolve_path=True)
_DIRECTORY = click.Path(exists=True, file_okay=False, resolve_path=True)


@click.command(
    epilog=examples(
        "dagster-slurm plan -f project.py --asset model",
        "dagster-slurm plan -m project --asset daily --partition 2026-01-01",
        "dagster-slurm plan --payload train.py -o cpus=4 -o mem=8G --script",
    )
)
@click.option("-f", "--python-file", type=_FILE, help="The file with the definitions.")
@click.option("-m", "--module-name", help="The module with the definitions.")
@click.option("-a", "--attribute", help="The name of the definitions in the file or module.")
@click.option("-d", "--working-directory", type=_DIRECTORY, help="Where modules are looked for.")
@click.option("--asset", metavar="KEY", help="Which asset; needed if there are several.")
@click.option("--partition", metavar="KEY", help="Which of its partitions.")
@click.option("--partition-range", metavar="START...END", help="Several of them, as in a single-run backfill.")
@click.option("-c", "--config", type=_FILE, help="Run config as YAML, as the launchpad has it.")
@click.option("--payload", metavar="PAYLOAD", help="Plan this payload, without any definitions.")
@click.option("-o", "--option", "options", metavar="NAME=VALUE", multiple=True, help="With --payload: one of sbatch's.")
@with_cluster_options
@click.option("--script", is_flag=True, help="Show the batch script as well.")
@click.option("--json", "in_json", is_flag=True, help="Print JSON, the script included.")
def plan(*, in_json: bool, script: bool, payload: str | None, **options: Any) -> None:
    """Print what would be run, and run nothing: nothing is uploaded, installed or submitted.

    With -f or -m, the asset's own function is executed up to its first compute.run(...), and no further. Its work
    before that call is really done; values of other assets, as its arguments, cannot be loaded.

    With --payload, a payload is planned for the cluster of the environment variables, as SlurmResource.from_env() reads
    them; --prefix, --local and --remote-base are for this form.

    Exit status: 0 it would be submitted, 1 it would be refused, 2 wrong usage.
    """
    named = [options["python_file"], options["module_name"], payload]
    if sum(each is not None for each in named) != 1:
        raise click.UsageError("Name the code with -f or -m, or a payload with --payload.")
    if payload is None and options["options"]:
        raise click.UsageError("--option goes with --payload; an asset says itself what it asks for.")
    if options["partition"] and options["partition_range"]:
        raise click.UsageError("--partition and --partition-range exclude each other.")
    made = _of_asset(options) if payload is None else _of_payload(payload, options)
    say(json.dumps(made.as_json(), indent=2) if in_json else made.text(script=script, width=width()))


def _of_asset(options: dict[str, Any]) -> JobPlan:
    from dagster import config_from_files  # noqa: PLC0415 - importing dagster is slow

    from dagster_slurm.cli.asset_plan import Partitions, plan_of_asset  # noqa: PLC0415

    code = {name: options[name] for name in ("python_file", "module_name", "attribute", "working_directory")}
    config = config_from_files([options["config"]]) if options["config"] else None
    partitions = Partitions(options["partition"], _range_of(options["partition_range"]))
    return plan_of_asset(code, options["asset"], partitions, config)


def _range_of(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    first, dots, last = text.partition("...")
    if not (first and dots and last):
        raise click.UsageError(f"--partition-range is START...END, not {text}.")
    return first, last


def _of_payload(payload: str, options: dict[str, Any]) -> JobPlan:
    from dagster_slurm.resources.compute import ComputeResource  # noqa: PLC0415 - importing dagster is slow
    from dagster_slurm.resources.slurm import SlurmResource, SSHConnectionResource  # noqa: PLC0415

    ssh = None if options["local"] else SSHConnectionResource.from_env(options["prefix"])
    slurm = SlurmResource.from_env_slurm(ssh)
    if options["remote_base"]:
        # Not a copy of it: Dagster makes a resource anew from what it was made of.
        slurm = SlurmResource(**{**dict(slurm), "remote_base": options["remote_base"]})
    pairs = (text.partition("=") for text in options["options"])
    asked = {name: value if equals else True for name, equals, value in pairs}
    return ComputeResource(mode="slurm", slurm=slurm).plan(payload_path=payload, extra_slurm_opts=asked)


@click.command(
    epilog=examples(
        "dagster-slurm reconcile --dry-run",
        "dagster-slurm reconcile",
        "dagster-slurm reconcile --run 5e3c7c44-9d2d-4f1c-b7bb-31cd3a8ff0a5",
    )
)
@click.option("--dry-run", is_flag=True, help="Only report what would be done.")
@click.option("--no-retry", is_flag=True, help="Only mark the runs; execute nothing.")
@click.option("--run", "run_ids", metavar="ID", multiple=True, help="Only this run, also one that has failed.")
@click.option("--gone-host", "gone_hosts", metavar="HOST", multiple=True, help="This machine is gone for good.")
@click.option(
    "--older-than",
    "older_than_seconds",
    metavar="SECONDS",
    type=float,
    default=0.0,
    help="Leave runs alone that have recorded an event in the last so many seconds.",
)
@click.option("--parallel", "max_parallel", default=4, show_default=True, help="How many retries run at a time.")
@click.option("-f", "--python-file", type=_FILE, help="The file the code is in, if not where the run says.")
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
    """Find the runs that are still "started" though their processes have died, mark them and finish them.

    A run is marked failed and retried from the point of failure: the retry takes up its Slurm jobs, collects those
    that have ended meanwhile, and goes on. No job is cancelled or submitted twice. Runs of which a process lives, and
    those of other machines, are left alone. DAGSTER_HOME says where the runs are.

    Exit status: 0 nothing is left undone, 1 something is, 2 wrong usage.
    """
    if (python_file is None) == (module_name is None) and (python_file or attribute or working_directory):
        raise click.UsageError("Name the code with either -f or -m; -a and -d say more about one of them.")

    from dagster_slurm.pipes.dagster_runs import instance_of_environment  # noqa: PLC0415 - importing dagster is slow
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
