"""No error has an empty reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.support.sources import parsed

import dagster_slurm
from dagster_slurm.transport import CompletedCommand

SOURCES = sorted(Path(dagster_slurm.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (b"Permission denied\n", "Permission denied"),
        (b"", "it ended with status 137 and said nothing"),
        (b" \n\n", "it ended with status 137 and said nothing"),
        (b"caf\xe9", "caf�"),
    ],
)
def test_what_a_command_says_or_that_it_says_nothing(stderr: bytes, reason: str) -> None:
    assert CompletedCommand(b"", stderr, 137).reason == reason


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_message_is_made_of_what_may_be_empty(path: Path) -> None:
    """A message with `error_text` in it ends after the colon where a program was killed without a word."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FormattedValue):
            names = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
            assert "error_text" not in names, f"{path}:{node.lineno}"
