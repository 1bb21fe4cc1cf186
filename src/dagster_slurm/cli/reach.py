"""The options by which commands find the cluster, and the way to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.doctor.settings import Asked, read_settings
from dagster_slurm.transport import LocalTransport, OpenSSHTransport

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--prefix", default="SLURM_EDGE_NODE_", show_default=True, help="What the variables of the way begin with."
    ),
    click.option("--local", is_flag=True, help="Run Slurm's commands on this machine, without SSH."),
    click.option("--remote-base", metavar="DIRECTORY", help="The directory for runs, in place of SLURM_REMOTE_BASE."),
)


def with_cluster_options(command: _Command) -> _Command:
    """Give a command the options `prefix`, `local` and `remote_base`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextmanager
def cluster_of(prefix: str, *, local: bool, remote_base: str | None) -> Iterator[SlurmCluster]:
    """The cluster of the environment variables, over one connection.

    Raises:
        ConfigurationError: A setting is missing or cannot be read.
    """
    settings = read_settings(Asked(prefix=prefix, local=local, remote_base=remote_base))
    way = settings.connection
    transport = OpenSSHTransport(way, channels=1) if way else LocalTransport(channels=1)
    try:
        yield SlurmCluster(transport, remote_base=settings.remote_base)
    finally:
        transport.close()
