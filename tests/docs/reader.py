"""Somebody who follows a page to the letter: writes its files, runs its commands, executes its Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.docs.markdown import Block
from tests.support import forked

MATERIALIZE = Path(__file__).with_name("materialize_block.py")


class Reader:
    """Follows one page, in a directory of its own.

    Args:
        directory: Where the page's files lie.
        variables: The environment, on top of this process's own.
        names: What a page calls a thing, and what it is called here.
    """

    def __init__(self, directory: Path, variables: Mapping[str, str], names: Mapping[str, str]) -> None:
        self._directory = directory
        self._names = names
        # Started for real: in test_demo.py, test_doctor.py and by those who bring up `dagster dev`.
        binaries = forked.programs()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "DAGSTER_"))}
        self._variables = {**inherited, "PATH": f"{binaries}:{os.environ['PATH']}", **variables}

    def write(self, block: Block) -> Path:
        """Put a block with a title where its page says; another one beside it."""
        path = self._directory / (block.title or f"block_{block.line}.{block.language}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.translated(block), encoding="utf-8")
        return path

    def translated(self, block: Block) -> str:
        """The block's text, with the names of things that are here."""
        text = block.text
        for name, here in self._names.items():
            text = text.replace(name, here)
        return text

    def materialize(self, block: Block) -> None:
        """Execute a Python block, and run what it defines."""
        self.run([sys.executable, str(MATERIALIZE), self.write(block).name], block)

    def test(self, block: Block) -> None:
        """Run a Python block with pytest."""
        path = self.write(block).rename(self._directory / f"test_{block.line}.py")
        self.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path.name], block)

    def shell(self, block: Block) -> None:
        """Run a shell block."""
        self.run(["bash", "-euc", self.translated(block)], block)

    def run(self, argv: Sequence[str], block: Block) -> None:
        """Run a command; the test fails with what it said."""
        if argv[0] == sys.executable:
            done = forked.run(argv, cwd=self._directory, env=self._variables, timeout=200, children=True)
        else:
            done = subprocess.run(
                argv,
                cwd=self._directory,
                env=self._variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
        assert done.returncode == 0, f"{block.place} does not work:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
