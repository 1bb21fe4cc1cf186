"""`dagster-slurm plan`: what an asset, or a payload, would be run as."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from dagster_slurm.cli.reach import with_cluster_options
from dagster_slurm.cli.terminal import examples, say, width

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

    With -f or -m, the asset's own function is executed up to its first compute.run(...), and no further. What it does
    before that is really done; what it takes as arguments from other assets cannot be loaded.

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
