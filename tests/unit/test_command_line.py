"""What all commands have in common: examples in their help, and completion."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dagster_slurm.cli import main

PACKAGE = "dagster_slurm"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of all commands, those of groups included."""
    yield path
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


ALL = list(commands(main))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_help_ends_with_examples_that_click_would_take(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project.py").touch()
    said = CliRunner().invoke(main, [*path, "--help"], terminal_width=80).output
    assert max(map(len, said.splitlines())) <= 80
    _, _, told = said.partition("\n  Examples:\n")
    lines = [line.strip() for line in told.splitlines()]
    assert lines, said
    for line in lines:
        words = shlex.split(re.sub(r'^eval "\$\((.*)\)"$', r"\1", line))
        assert words[: 1 + len(path)] == ["dagster-slurm", *path], line
        understood(main, words[1:])


def test_every_command_is_on_the_page_of_the_command_line() -> None:
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
    table = "".join(line for line in page.splitlines() if line.startswith("| [`"))
    assert set(re.findall(r"`(\w+)`", table)) == {path[0] for path in ALL if path}


def understood(command: click.Command, words: list[str]) -> None:
    """Every option is one of the command's, and every value one that it takes; nothing is done."""
    if isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words
        understood(found, words[1:])
        return
    command.make_context(command.name, words)


@pytest.mark.parametrize(
    ("words", "offered"),
    [("dagster-slurm j", {"jobs"}), ("dagster-slurm jobs --w", {"--watch"}), ("dagster-slurm sandbox st", {"status"})],
)
def test_completion(words: str, offered: set[str]) -> None:
    said, loaded = completed(words)
    assert set(said) == offered
    assert loaded < 60


def test_the_names_of_commands_are_completed_without_them() -> None:
    said, loaded = completed("dagster-slurm ")
    assert {path[0] for path in ALL if path} <= set(said)
    assert loaded <= 5


def completed(words: str) -> tuple[list[str], int]:
    """What bash is offered for the last word, and how many modules of ours that has loaded."""
    program = f"""
import sys
from {PACKAGE}.cli import main
try:
    main.main(prog_name="dagster-slurm")
except SystemExit:
    pass
print(sum(name.startswith({PACKAGE!r}) for name in sys.modules), file=sys.stderr)
"""
    variables = {
        "_DAGSTER_SLURM_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=variables)
    return [line.partition(",")[2] for line in done.stdout.splitlines()], int(done.stderr.splitlines()[-1])


def test_a_full_disk_under_the_output_is_named_in_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dagster_slurm.cli", "env", "list", "--local"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (
        1,
        "dagster-slurm: The output cannot be written: No space left on device\n",
    )
