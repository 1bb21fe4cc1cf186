"""What commands print: the far end has no say over the terminal."""

from __future__ import annotations

import click

from dagster_slurm.text import printable


def say(text: object, *, err: bool = False) -> None:
    """Print a line, on stderr if `err`; whatever of it a terminal would obey is shown instead."""
    click.echo(printable(str(text)), err=err)
