"""Somebody who types all commands of a page into one shell, and compares what they print with what the page shows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.docs.markdown import Block
from tests.support import graphql

RUNS = "{ runsOrError { ... on Runs { results { status } } } }"


class Transcript:
    """A new user at one terminal, whose home is an empty directory.

    Args:
        home: That directory.
        variables: The rest of the environment.
        directory: The one in it that has the page's files.
    """

    def __init__(self, home: Path, variables: dict[str, str], *, directory: str) -> None:
        self._home = home
        self._project = home / directory
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "DAGSTER_"))}
        self._variables = {**inherited, **variables, "HOME": str(home)}

    def follow(self, blocks: list[Block], *, of: Path) -> list[str]:
        """Write the page's files and type its commands; what was printed, for each block of commands."""
        self._project.mkdir()
        for block in blocks:
            if block.title:
                (self._project / block.title).write_text(block.text, encoding="utf-8")
        commands = [block.text for block in blocks if block.language == "sh"]
        text = "".join(f"{each}echo 'end of a block' $?\n" for each in commands)
        done = subprocess.run(
            ["bash", "-eu"],
            input=text,
            cwd=of,
            env=self._variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-8000:]
        *said, rest = done.stdout.split("end of a block 0\n")
        assert (len(said), rest) == (len(commands), "")
        return said

    def runs_in_the_ui(self, command: str) -> list[str]:
        """How the runs stand that its last command shows."""
        project = self._project
        variables = {**self._variables, "DAGSTER_HOME": str(project / "dagster")}
        log = project / "log"
        with graphql.served(f"exec {command.strip()}", cwd=project, env=variables, log=log, assets=1) as port:
            answer = graphql.ask(port, RUNS)
        return [run["status"] for run in answer["runsOrError"]["results"]]


def shows_what_was_printed(blocks: list[Block], said: list[str]) -> None:
    """Compare each block of text with what the block of commands before it has printed, line by line."""
    shown = 0
    typed = iter(said)
    printed = ""
    for block in blocks:
        if block.language == "sh":
            printed = next(typed)
        elif block.language == "text":
            shown += 1
            rest = printed
            for line in block.text.splitlines():
                _, found, rest = rest.partition(line)
                assert found, f"{block.place}: {line!r} was not printed, or not in this order:\n{printed}"
    assert shown >= 2
    assert "superseded" not in "".join(said)
