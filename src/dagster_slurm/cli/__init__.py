"""The command line of dagster-slurm."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click
from click.shell_completion import CompletionItem

from dagster_slurm.errors import DagsterSlurmError

# Name of a sub-command -> module and attribute, and the line `--help` shows without importing it.
_COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "cancel": (
        "dagster_slurm.cli.job_commands",
        "cancel",
        "Cancel jobs of runs, by number or run, and nobody else's.",
    ),
    "clean": (
        "dagster_slurm.cli.upkeep",
        "clean",
        "List what runs have left over on the cluster, and remove what nobody needs.",
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
        "Print what the payload of a job, or of all jobs of a run, has said; follow it.",
    ),
    "plan": (
        "dagster_slurm.cli.definitions",
        "plan",
        "Print what an asset or a payload would be run as, and run nothing.",
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
            # `--help` needs none of it.
            from dagster_slurm.cli.common import say  # noqa: PLC0415

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
