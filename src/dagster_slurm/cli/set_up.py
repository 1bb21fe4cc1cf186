"""`dagster-slurm login` and `doctor`: the way to the cluster, and whether all is set up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dagster_slurm.cli import cluster_of, examples, say, say_painted, way_of, width

if TYPE_CHECKING:
    from dagster_slurm.doctor import Asked, Finding, Status


@click.command(
    epilog=examples(
        "dagster-slurm login",
        "dagster-slurm login --persist 8h",
        "dagster-slurm login --check",
    )
)
@click.option("--prefix", default="SLURM_EDGE_NODE_", show_default=True, help="Prefix of the environment variables.")
@click.option("--persist", metavar="TIME", help="How long the connection stays after its last use, as in 8h.")
@click.option("--check", is_flag=True, help="Only say whether there is a connection; exit code 1 if not.")
@click.option("--end", is_flag=True, help="End the connection, for every process that uses it.")
def login(prefix: str, persist: str | None, check: bool, end: bool) -> None:
    """Log in to the cluster's login node, for Dagster's processes to use the connection.

    ssh asks on this terminal for passwords, one-time codes and passphrases, at jump hosts too. As long as the
    connection lasts, no process of this user logs in again. The host is read from the SLURM_EDGE_NODE_* variables.
    """
    # `--help` needs none of it.
    from dagster_slurm.transport.openssh import ControlMaster  # noqa: PLC0415

    connection = way_of(prefix)
    master = ControlMaster(connection, control_persist=persist)
    if end:
        master.end()
        say(f"No connection to {connection.label} any more.")
    elif check or master.is_alive():
        _tell(connection.label, alive=master.is_alive())
    else:
        master.start_on_terminal()
        _tell(connection.label, alive=master.is_alive())


def _tell(label: str, *, alive: bool) -> None:
    say(f"Connected to {label}." if alive else f"Not connected to {label}.")
    if not alive:
        raise click.exceptions.Exit(1)


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
    "--prefix", default="SLURM_EDGE_NODE_", show_default=True, help="Prefix of the variables for the login node."
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
@click.option(
    "--from-1.22",
    "former",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="Say what a project that was written for dagster-slurm 1.22 has to change, and check nothing else.",
)
@click.option("--json", "in_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(context: click.Context, /, *, in_json: bool, former: Path | None, **options: Any) -> None:
    """Check a set-up step by step: what is there, what is wrong, and what to do.

    Reads what SlurmResource.from_env() reads: SLURM_EDGE_NODE_* for the way to the login node, SLURM_* for the rest.
    Nothing is submitted unless --job is given. Exit status: 0 nothing is wrong, 1 something is, 2 wrong usage.
    """
    if former is not None:
        context.exit(_say_of_move(former, options, in_json=in_json))
    # `--help` needs none of it.
    from dagster_slurm.doctor import World, diagnose  # noqa: PLC0415
    from dagster_slurm.doctor.finding import as_json, lines_of, lines_of_skipped, overall, summary  # noqa: PLC0415
    from dagster_slurm.housekeeping.tables import wrapped  # noqa: PLC0415

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


def _say_of_move(directory: Path, options: dict[str, Any], *, in_json: bool) -> int:
    """Look at a project of 1.22; the exit status."""
    from dagster_slurm.compat.move import looked_at  # noqa: PLC0415
    from dagster_slurm.variables import prefix_in_use, text_in  # noqa: PLC0415

    host = f"{prefix_in_use(options['prefix'])}HOST"
    if options["local"] or text_in(host) is not None:
        with cluster_of(options["prefix"], local=options["local"], remote_base=options["remote_base"]) as cluster:
            found = looked_at(directory, cluster)
    else:
        found = looked_at(directory, None, f"{host} is not set: which jobs of 1.22 there are is not known")
    if in_json:
        say(json.dumps(found.as_json(), indent=2))
    else:
        say("\n".join(found.lines()))
    return 0 if found.is_ready else 1


def _asked(options: dict[str, Any]) -> Asked:
    from dagster_slurm.doctor import Asked  # noqa: PLC0415

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
