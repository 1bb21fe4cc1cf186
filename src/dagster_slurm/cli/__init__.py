"""The command `dagster-slurm`, whose sub-commands are imported when they are used; what several take and print."""

from __future__ import annotations

import errno
import importlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from dagster_slurm.errors import DagsterSlurmError, LocalStorageError
from dagster_slurm.text import printable

if TYPE_CHECKING:
    from dagster_slurm.cluster import SlurmCluster
    from dagster_slurm.housekeeping.jobs_table import WordOf
    from dagster_slurm.transport import SSHConnection

# Name of a sub-command -> module and attribute, and the line `--help` shows without importing it.
_COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "cancel": (
        "dagster_slurm.cli.job_commands",
        "cancel",
        "Cancel jobs of runs, by number or run, and no others.",
    ),
    "clean": (
        "dagster_slurm.cli.upkeep",
        "clean",
        "List what runs have left over on the cluster, and remove what is not needed.",
    ),
    "doctor": (
        "dagster_slurm.cli.set_up",
        "doctor",
        "Check a set-up step by step, and say what is wrong and what to do.",
    ),
    "env": (
        "dagster_slurm.cli.upkeep",
        "env",
        "Deploy, list, verify and prune the environments on the cluster.",
    ),
    "init": (
        "dagster_slurm.cli.project",
        "init",
        "Write a new project that runs on this machine and on the sandbox.",
    ),
    "jobs": (
        "dagster_slurm.cli.jobs",
        "jobs",
        "Show the jobs of this user's runs, with run, asset, partition key and state.",
    ),
    "login": (
        "dagster_slurm.cli.set_up",
        "login",
        "Log in once, on a terminal, for every process of this user.",
    ),
    "logs": (
        "dagster_slurm.cli.job_commands",
        "logs",
        "Print the output of the payload of a job, or of all jobs of a run; follow it.",
    ),
    "plan": (
        "dagster_slurm.cli.definitions",
        "plan",
        "Print how an asset or a payload would be run, and run nothing.",
    ),
    "reconcile": (
        "dagster_slurm.cli.definitions",
        "reconcile",
        "Finish the runs whose processes have died, without a daemon.",
    ),
    "report": (
        "dagster_slurm.cli.jobs",
        "report",
        "Compare what jobs have asked for with what they used: node-hours, CPU, memory, time.",
    ),
    "sandbox": (
        "dagster_slurm.cli.sandbox",
        "sandbox",
        "A real Slurm cluster on this machine, for trying and testing; not for production.",
    ),
    "sessions": (
        "dagster_slurm.cli.sessions",
        "sessions",
        "List the allocations that runs share, with their steps, and end one.",
    ),
    "shell": (
        "dagster_slurm.cli.job_commands",
        "shell",
        "Open a shell beside the payload of a job that runs.",
    ),
}


class LazyGroup(click.Group):
    """A group whose sub-commands are imported when they are used: starting up stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the sub-commands."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The sub-command of that name, imported now."""
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is not a click command")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The sub-commands that begin so, without importing any, and this command's own options."""
        found = [CompletionItem(name, help=told[2]) for name, told in _COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of sub-commands for `--help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> object:
        """Run the sub-command; our own errors are told in plain lines, without a traceback."""
        try:
            return super().invoke(ctx)
        except DagsterSlurmError as error:
            say(f"dagster-slurm: {error}", err=True)
            ctx.exit(1)


_EXAMPLES = """\b
Examples:
  dagster-slurm doctor
  dagster-slurm jobs --watch
"""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.version_option(package_name="dagster-slurm", prog_name="dagster-slurm")
def main() -> None:
    """Run Dagster assets as Slurm jobs."""


__all__ = ["main"]


def say(text: object, *, err: bool = False, end: str = "\n") -> None:
    """Print a line, on stderr if `err`; whatever of it a terminal would obey is shown instead."""
    _write(f"{printable(str(text))}{end}", err=err, nl=False)


def say_painted(text: str) -> None:
    """Print what is `printable` and was given colours since; they are left out where nobody sees or wants them."""
    _write(text, color=False if os.environ.get("NO_COLOR") else None)


def _write(text: str, *, err: bool = False, **options: Any) -> None:
    try:
        click.echo(text, err=err, **options)
    except OSError as error:
        # A reader that has gone, as `head`, is click's.
        if err or error.errno == errno.EPIPE:
            raise
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise LocalStorageError(f"The output cannot be written: {error.strerror}") from error


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
        "--prefix", default="SLURM_EDGE_NODE_", show_default=True, help="Prefix of the variables for the login node."
    ),
    click.option("--local", is_flag=True, help="Run Slurm's commands on this machine, without SSH."),
    click.option("--remote-base", metavar="DIRECTORY", help="The directory for runs, in place of SLURM_REMOTE_BASE."),
)


def with_cluster_options(command: _Command) -> _Command:
    """Give a command the options `prefix`, `local` and `remote_base`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def way_of(prefix: str) -> SSHConnection:
    """The way to the login node: of the variables of that prefix, or else of the profile that one of them names.

    Raises:
        ConfigurationError: Neither says it, or a value is not usable.
    """
    # `--help` of a command needs none of it.
    from dagster_slurm.variables import connection_from, prefix_in_use, text_in  # noqa: PLC0415

    if text_in(f"{prefix_in_use(prefix)}HOST") is None and (ssh := _of_profile("ssh")) is not None:
        way: SSHConnection = ssh.connection()
        return way
    return connection_from(prefix)


def _of_profile(field: str) -> Any:
    """What the profile of the environment variable says of a field of `SlurmResource`; None without one."""
    from dagster_slurm.variables import PROFILE_VARIABLE, text_in  # noqa: PLC0415

    name = text_in(PROFILE_VARIABLE)
    if name is None:
        return None
    # Dagster takes a second to load.
    from dagster_slurm.resources.slurm import site_profile  # noqa: PLC0415

    return site_profile(name).own_fields().get(field)


@contextmanager
def cluster_of(prefix: str, *, local: bool, remote_base: str | None) -> Iterator[SlurmCluster]:
    """The cluster of the environment variables, over one connection.

    Raises:
        ConfigurationError: A setting is missing or cannot be read.
    """
    # `--help` of a command needs none of it.
    from dagster_slurm.cluster import SlurmCluster  # noqa: PLC0415
    from dagster_slurm.transport import LocalTransport, OpenSSHTransport  # noqa: PLC0415
    from dagster_slurm.variables import DEFAULT_REMOTE_BASE, text_in  # noqa: PLC0415

    base = remote_base or text_in("SLURM_REMOTE_BASE") or _of_profile("remote_base") or DEFAULT_REMOTE_BASE
    transport = LocalTransport(channels=1) if local else OpenSSHTransport(way_of(prefix), channels=1)
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
