"""The first page that a new user follows, from an empty directory on, in one shell and to the letter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import READERS, ROOT, Block, blocks_of
from tests.support import forked, graphql

pytestmark = [pytest.mark.process, pytest.mark.cluster, pytest.mark.xdist_group(READERS)]

PAGE = ROOT / "docs" / "getting-started.md"
# What follows is about a cluster of the reader's own.
LAST = "dg dev -f words.py\n"
INSTALL = "python3 -m venv .venv"
RUNS = "{ runsOrError { ... on Runs { results { status } } } }"


class Transcript:
    """A new user at one terminal, whose home is an empty directory.

    Args:
        home: That directory.
        variables: The rest of the environment.
    """

    def __init__(self, home: Path, variables: dict[str, str]) -> None:
        self.home = home
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "DAGSTER_"))}
        self._variables = {**inherited, **variables, "HOME": str(home)}

    def follow(self, blocks: list[Block], *, of: Path) -> list[str]:
        """Write the page's files and type its commands; what was printed, for each block of commands."""
        words = self.home / "words"
        words.mkdir()
        for block in blocks:
            if block.title:
                (words / block.title).write_text(block.text, encoding="utf-8")
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
        words = self.home / "words"
        variables = {**self._variables, "DAGSTER_HOME": str(words / "dagster")}
        with graphql.served(f"exec {command.strip()}", cwd=words, env=variables, log=words / "log", assets=1) as port:
            answer = graphql.ask(port, RUNS)
        return [run["status"] for run in answer["runsOrError"]["results"]]


def _blocks() -> list[Block]:
    blocks = blocks_of(PAGE)
    last = next(number for number, block in enumerate(blocks) if block.text == LAST)
    return blocks[:last]


def _shows_what_was_printed(blocks: list[Block], said: list[str]) -> None:
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


def test_a_new_user(named_by_a_reader: dict[str, str], tmp_path: Path) -> None:
    """With the package and Dagster as they are installed here."""
    variables = {**named_by_a_reader, "PATH": f"{forked.programs()}:{os.environ['PATH']}"}
    blocks = [block for block in _blocks() if block.first_line != INSTALL]
    said = Transcript(tmp_path, variables).follow(blocks, of=tmp_path)
    _shows_what_was_printed(blocks, said)


@pytest.mark.all_faults
@pytest.mark.timeout(900)
def test_a_new_user_on_a_fresh_machine(named_by_a_reader: dict[str, str], tmp_path: Path) -> None:
    """With a clone and a virtual environment of its own, and the UI at the end."""
    clone = tmp_path / "dagster-slurm"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    own = Path(sys.prefix, "bin")
    path = [part for part in os.environ["PATH"].split(":") if Path(part) != own]
    user = Transcript(tmp_path, {**named_by_a_reader, "PATH": ":".join(path)})
    blocks = _blocks()
    _shows_what_was_printed(blocks, user.follow(blocks, of=clone))
    assert user.runs_in_the_ui(f"{clone}/.venv/bin/{LAST}") == ["SUCCESS"] * 2
