"""`dagster-slurm login`: log in once, on a terminal, for every process of this user."""

from __future__ import annotations

import click

from dagster_slurm.cli.terminal import examples, say


@click.command(
    epilog=examples(
        "dagster-slurm login",
        "dagster-slurm login --persist 8h",
        "dagster-slurm login --check",
    )
)
@click.option(
    "--prefix", default="SLURM_EDGE_NODE_", show_default=True, help="What the environment variables begin with."
)
@click.option("--persist", metavar="TIME", help="How long the connection stays after its last use, as in 8h.")
@click.option("--check", is_flag=True, help="Only tell whether there is a connection; exit code 1 if not.")
@click.option("--end", is_flag=True, help="End the connection, for every process that uses it.")
def login(prefix: str, persist: str | None, check: bool, end: bool) -> None:
    """Log in to the cluster's login node, for Dagster's processes to use the connection.

    ssh asks on this terminal for passwords, one-time codes and passphrases, at jump hosts too. As long as the
    connection lasts, no process of this user logs in again. The host is read from the SLURM_EDGE_NODE_* variables.
    """
    # `--help` needs none of it.
    from dagster_slurm.transport.openssh import ControlMaster  # noqa: PLC0415
    from dagster_slurm.variables import connection_from  # noqa: PLC0415

    connection = connection_from(prefix)
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
