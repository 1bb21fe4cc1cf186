"""`dagster-slurm init`."""

from __future__ import annotations

from pathlib import Path

import click

from dagster_slurm.cli import examples, say


@click.command(
    epilog=examples(
        "dagster-slurm init demo",
        "dagster-slurm init forecasts --source ~/dagster-slurm",
    )
)
@click.argument("directory", metavar="NAME", type=click.Path(path_type=Path))
@click.option("--source", metavar="PLACE", help="A clone, a wheel or an address that dagster-slurm is installed from.")
def init(directory: Path, source: str | None) -> None:
    """Write a new project into the directory NAME, for uv and dg.

    Its assets run on this machine and on the sandbox as they are: `make demo` in it does both. It gets dagster-slurm
    from where this one was installed, since on PyPI that name is another package.

    Exit status: 0 written, 1 not, 2 wrong usage.
    """
    from dagster_slurm.new_project import write_project  # noqa: PLC0415 - `--help` needs none of it
    from dagster_slurm.new_project.source import of_text, running_source  # noqa: PLC0415

    found = of_text(source) if source else running_source()
    made = write_project(directory.expanduser(), found)
    say(f"{made}: a project with dagster-slurm from {found.toml}.")
    say(f"Next: cd {made} && make demo")
