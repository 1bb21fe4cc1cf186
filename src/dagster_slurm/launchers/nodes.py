"""Hooks that have something running on every node of the job while the payload does. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dagster_slurm.launchers.hooks import Hook
from dagster_slurm.launchers.plan import Place
from dagster_slurm.transport.shell import shell_file


def nodes_hook(
    name: str,
    file: str | Path,
    place: Place,
    values: Mapping[str, str | Sequence[str]],
    functions: Mapping[str, Sequence[str]] | None = None,
) -> Hook:
    """A hook over `nodes.sh`, which starts a task on every node.

    Args:
        name: The hook's name.
        file: Its shell file, which stands behind `nodes.sh` and uses it; a name without a directory is one of ours.
        place: Where; `NAME_setup` enters its environment on each node, and `NAME_here` says whether it is this machine.
        values: What the shell file reads, as for `Hook`.
        functions: Bodies of more functions, lines of bash, quoted already, by what follows `NAME_` in their names.
    """
    bodies = {"setup": place.activation.setup, **(functions or {})}
    shell = "\n".join(
        (
            *(_function(f"{name}_{each}", lines) for each, lines in bodies.items()),
            *(shell_file("dagster_slurm.launchers", each) for each in ("usage.sh", "nodes.sh")),
            shell_file("dagster_slurm.launchers", file) if isinstance(file, str) else file.read_text("utf-8"),
        )
    )
    return Hook(name, shell, {**values, "here": "" if place.is_slurm else "yes"})


def _function(name: str, lines: Sequence[str]) -> str:
    # A function of bash has to do something.
    return "\n".join((f"{name}() {{", *(lines or (":",)), "}"))
