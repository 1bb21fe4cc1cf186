"""The first page that a new user follows, from an empty directory on, in one shell and to the letter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import READERS, ROOT, Block, blocks_of
from tests.docs.transcript import Transcript, shows_what_was_printed
from tests.support import forked

pytestmark = [pytest.mark.process, pytest.mark.cluster, pytest.mark.xdist_group(READERS)]

PAGE = ROOT / "docs" / "getting-started.md"
# What follows is about a cluster of the reader's own.
LAST = "dg dev -f words.py\n"
INSTALL = "python3 -m venv .venv"


def _blocks() -> list[Block]:
    blocks = blocks_of(PAGE)
    last = next(number for number, block in enumerate(blocks) if block.text == LAST)
    return blocks[:last]


def test_a_new_user(named_by_a_reader: dict[str, str], tmp_path: Path) -> None:
    """With the package and Dagster as they are installed here."""
    variables = {**named_by_a_reader, "PATH": f"{forked.programs()}:{os.environ['PATH']}"}
    blocks = [block for block in _blocks() if block.first_line != INSTALL]
    said = Transcript(tmp_path, variables, directory="words").follow(blocks, of=tmp_path)
    shows_what_was_printed(blocks, said)


@pytest.mark.all_faults
@pytest.mark.timeout(900)
def test_a_new_user_on_a_fresh_machine(named_by_a_reader: dict[str, str], tmp_path: Path) -> None:
    """With a clone and a virtual environment of its own, and the UI at the end."""
    clone = tmp_path / "dagster-slurm"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    own = Path(sys.prefix, "bin")
    path = [part for part in os.environ["PATH"].split(":") if Path(part) != own]
    user = Transcript(tmp_path, {**named_by_a_reader, "PATH": ":".join(path)}, directory="words")
    blocks = _blocks()
    shows_what_was_printed(blocks, user.follow(blocks, of=clone))
    assert user.runs_in_the_ui(f"{clone}/.venv/bin/{LAST}") == ["SUCCESS"] * 2
