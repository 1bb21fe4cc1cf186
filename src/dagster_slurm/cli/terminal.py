"""What commands print: the far end has no say over the terminal."""

from __future__ import annotations

import os
import shutil
import sys

import click

from dagster_slurm.text import printable


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
