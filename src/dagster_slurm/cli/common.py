"""What several commands take: the cluster, durations and sizes; and what they print, whatever the far end has said."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dagster_slurm.text import printable

if TYPE_CHECKING:
    from dagster_slurm.cluster import SlurmCluster
    from dagster_slurm.housekeeping.jobs_table import WordOf


def say(text: object, *, err: bool = False, end: str = "\n") -> None:
    """Print a line, on stderr if `err`; whatever of it a terminal would obey is shown instead."""
    click.echo(f"{printable(str(text))}{end}", err=err, nl=False)


def say_painted(text: str) -> None:
    """Print what is `printable` and was given colours since; they are left out where nobody sees or wants them."""
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)


def width() -> int | None:
    """How many columns the terminal has; None where the output is no terminal, and nothing has to be left out."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def examples(*lines: str) -> str:
    """The end of a command's help: how it is called."""
    # "\b" has click leave the lines as they are.
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


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
    # `--help` of a command needs none of it.
    from dagster_slurm.cluster import SlurmCluster  # noqa: PLC0415
    from dagster_slurm.transport import LocalTransport, OpenSSHTransport  # noqa: PLC0415
    from dagster_slurm.variables import DEFAULT_REMOTE_BASE, connection_from, text_in  # noqa: PLC0415

    base = remote_base or text_in("SLURM_REMOTE_BASE") or DEFAULT_REMOTE_BASE
    transport = LocalTransport(channels=1) if local else OpenSSHTransport(connection_from(prefix), channels=1)
    try:
        yield SlurmCluster(transport, remote_base=base)
    finally:
        transport.close()


@contextmanager
def words() -> Iterator[Callable[[], WordOf]]:
    """For each look, what Dagster's records say of pieces of work; they are asked once in a look.

    Dagster, which takes a second to load, is loaded if there are any.
    """
    if not os.environ.get("DAGSTER_HOME"):
        from dagster_slurm.housekeeping.jobs_table import unknown  # noqa: PLC0415

        yield lambda: unknown
        return
    from dagster_slurm.housekeeping.dagster_records import records_of_environment  # noqa: PLC0415

    with records_of_environment() as records:
        yield lambda: records.afresh().word


_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_UNIT_BYTES = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def seconds(context: click.Context, option: click.Parameter, value: str) -> float:
    """A number and a unit, as in `3d`, in seconds."""
    number, unit = _read(context, option, value, _UNIT_SECONDS, "duration", "s, m, h, d and w, as in 3d")
    return float(number * unit)


def size_bytes(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """A number and a unit, as in `50G`, in bytes; `G` is GiB."""
    if value is None:
        return None
    number, unit = _read(context, option, value, _UNIT_BYTES, "size", "M, G and T, as in 50G")
    return number * unit


def _read(
    context: click.Context, option: click.Parameter, value: str, units: Mapping[str, int], what: str, allowed: str
) -> tuple[int, int]:
    match = re.fullmatch(rf"([0-9]{{1,6}})([{''.join(units)}])", value)
    if match is None:
        problem = f"{value!r} is not a {what}. Give a number and one of {allowed}."
        raise click.BadParameter(problem, context, option)
    return int(match[1]), units[match[2]]
