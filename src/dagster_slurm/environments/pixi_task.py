"""The task with which a pixi project packs itself: what it runs, and what that injects."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster_slurm.environments.pixi_command import MANIFESTS, injecting, matches
from dagster_slurm.environments.toml_files import read_toml

_TASKS = ("pack-only", "pack")


@dataclass(frozen=True)
class Task:
    """What a project packs itself with.

    Args:
        name: Of the task.
        tables: All tasks of the manifest: what one runs may be another.
        commands: The words of its own command and of those that it depends on, each with the directory it runs in.
    """

    name: str
    tables: Mapping[str, Any]
    commands: tuple[tuple[Path, tuple[str, ...]], ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The command that runs it."""
        return ("pixi", "run", "--frozen", self.name)

    def injected(self) -> dict[str, Path]:
        """The files that it injects, as far as they are there: a task may build them first."""
        found: dict[str, Path] = {}
        for directory, words in self.commands:
            for number in injecting(words):
                pattern = words[number].partition("=")[2] if words[number].startswith("-") else words[number]
                for each in matches(directory, pattern):
                    found[os.fspath(directory / each)] = directory / each
        return found


def of_task(project: Path) -> Task | None:
    """The project's own task for packing, `pack-only` or else `pack`; None if it has neither.

    Raises:
        InvalidRequestError: The manifest cannot be read.
    """
    tables = dict(_tasks(project))
    name = next((each for each in _TASKS if each in tables), None)
    return None if name is None else Task(name, tables, tuple(_commands(project, name, tables, set())))


def _commands(
    project: Path, name: str, tables: Mapping[str, Any], seen: set[str]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    if name in seen or name not in tables:
        return
    seen.add(name)
    task = tables[name]
    table = task if isinstance(task, dict) else {"cmd": task}
    needed: Any = table.get("depends-on") or table.get("depends_on") or []
    for each in [needed] if isinstance(needed, str) else needed:
        yield from _commands(project, str(each.get("task", "") if isinstance(each, dict) else each), tables, seen)
    command = table.get("cmd", "")
    try:
        words = tuple(map(str, command)) if isinstance(command, list) else tuple(shlex.split(str(command)))
    except ValueError:
        # Bash says what is wrong with it, when it is run.
        words = ()
    yield project / str(table.get("cwd", ".")), words


def _tasks(project: Path) -> Iterator[tuple[str, Any]]:
    for name in MANIFESTS:
        path = project / name
        if not path.is_file():
            continue
        manifest: Any = read_toml(path)
        if name == "pyproject.toml":
            manifest = manifest.get("tool", {}).get("pixi", {})
        for table in (manifest, *manifest.get("target", {}).values(), *manifest.get("feature", {}).values()):
            yield from table.get("tasks", {}).items()
