"""`dagster-slurm doctor`: checks a set-up step by step, and says what is wrong and what to do."""

from __future__ import annotations

import json
from typing import Any

import click

from dagster_slurm.cli.terminal import examples, say, say_painted, width
from dagster_slurm.doctor import Asked, Finding, Status, World, diagnose
from dagster_slurm.doctor.finding import as_json, lines_of, lines_of_skipped, overall, summary
from dagster_slurm.housekeeping.tables import wrapped

_COLOURS: dict[Status, str] = {"ok": "green", "warning": "yellow", "wrong": "red", "skipped": "bright_black"}
_OPTIONS = ("partition", "account", "qos", "time", "cpus", "mem")


@click.command(
    epilog=examples(
        "dagster-slurm doctor --env-path /shared/envs/analysis",
        "dagster-slurm doctor --partition gpu --time 00:10:00 --job",
        "dagster-slurm doctor --json",
    )
)
@click.option(
    "--prefix", default="SLURM_EDGE_NODE_", show_default=True, help="What the variables of the way begin with."
)
@click.option("--local", is_flag=True, help="Run Slurm's commands on this machine, without SSH.")
@click.option("--remote-base", metavar="DIRECTORY", help="The directory for runs, in place of SLURM_REMOTE_BASE.")
@click.option("--partition", help="In place of SLURM_PARTITION.")
@click.option("--account", help="In place of SLURM_ACCOUNT.")
@click.option("--qos", help="In place of SLURM_QOS.")
@click.option("--time", help="In place of SLURM_TIME.")
@click.option("--cpus", help="In place of SLURM_CPUS.")
@click.option("--mem", help="In place of SLURM_MEM.")
@click.option("--env-path", metavar="DIRECTORY", help="The environment on the cluster (pre_deployed_env_path).")
@click.option("--fresh-login", is_flag=True, help="Log in anew, though a shared connection may be open.")
@click.option("--job", is_flag=True, help="Submit a small job, too, and wait for its end.")
@click.option("--job-timeout", default=300.0, show_default=True, help="How long to wait for it, in seconds.")
@click.option("--json", "in_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(context: click.Context, /, *, in_json: bool, **options: Any) -> None:
    """Check a set-up step by step: what is there, what is wrong, and what to do.

    Reads what SlurmResource.from_env() reads: SLURM_EDGE_NODE_* for the way to the login node, SLURM_* for the rest.
    Nothing is submitted unless --job is given. Exit status: 0 nothing is wrong, 1 something is, 2 wrong usage.
    """
    world = World(_asked(options))
    findings: list[Finding] = []
    try:
        for finding in diagnose(world):
            findings.append(finding)
            if not in_json and finding.status != "skipped":
                say_painted("\n".join(lines_of(finding, _paint, width())))
    finally:
        world.close()
    if in_json:
        say(json.dumps(as_json(findings, host=world.host, logins=world.logins), indent=2))
    else:
        for line in lines_of_skipped(findings, _paint, width()):
            say_painted(line)
        say("\n".join(["", *wrapped(summary(findings), width())]))
    context.exit(1 if overall(findings) == "wrong" else 0)


def _asked(options: dict[str, Any]) -> Asked:
    return Asked(
        prefix=options["prefix"],
        local=options["local"],
        remote_base=options["remote_base"],
        options={name: options[name] for name in _OPTIONS if options[name] is not None},
        env_path=options["env_path"],
        fresh_login=options["fresh_login"],
        job=options["job"],
        job_patience_seconds=options["job_timeout"],
    )


def _paint(text: str, status: Status) -> str:
    return click.style(text, fg=_COLOURS[status])
