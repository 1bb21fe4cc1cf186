"""Plain English: sentences whose subject is a noun, in pages, in the texts of commands and in those of fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

import dagster_slurm
from dagster_slurm.cli import main
from tests.docs.markdown import PAGES, ROOT, name_of, prose_of

# Each is wrong wherever it is found: a word that may also be right is not among them.
AWKWARD = {
    "a clause is the subject": re.compile(r"(What|Who|Whoever)\b[^?:]*\.$"),
    "it is logged, reported or named": re.compile(r".*\b(is|are|was|were|be) told\b(?! apart)"),
}
# Decisions stay as they were written.
LIVING = [page for page in (*PAGES, ROOT / "CONTRIBUTING.md") if "docs/adr/" not in name_of(page)]
_STARTS = re.compile(r"\s*([-*] |\d+\. |\||#|$)")


def sentences(text: str) -> Iterator[str]:
    """Those of paragraphs, items of lists and cells of tables; headings are none."""
    part: list[str] = []
    for line in [*text.splitlines(), ""]:
        if _STARTS.match(line):
            yield from _split(" ".join(part))
            part = []
        if line.startswith("|"):
            for cell in line.split("|"):
                yield from _split(cell)
        elif not line.startswith("#"):
            part.append(re.sub(r"^\s*([-*]|\d+\.) ", "", line).strip())


def _split(text: str) -> list[str]:
    return re.split(r"(?<=[.!?]) (?=[A-Z`*(\[])", text.strip().replace("**", ""))


def awkward(text: str) -> list[str]:
    """What is wrong with a text, a line for each sentence."""
    found = [(each, why) for each in sentences(text) for why, pattern in AWKWARD.items() if pattern.match(each)]
    return [f"{why}: {each}" for each, why in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is there stays.", 1),
        ("What is there?", 0),
        ("- Whoever comes first\n  is served. What a day!", 1),
        ("| What it does is good. | fine |", 1),
        ("## What it costs\n\nLittle.", 0),
        ("The run is told of it.", 1),
        ("A signal is told apart from it.", 0),
    ],
)
def test_what_is_found(text: str, expected: int) -> None:
    assert len(awkward(text)) == expected


@pytest.mark.parametrize("page", LIVING, ids=name_of)
def test_a_page(page: Path) -> None:
    assert awkward(prose_of(page)) == []


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            each = command.get_command(context, name)
            assert each is not None
            yield from _commands(each, f"{path} {name}")


COMMANDS = dict(_commands(main, "dagster-slurm"))


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_help_of_a_command(command: click.Command) -> None:
    texts = [command.help or "", *(each.help or "" for each in command.params if isinstance(each, click.Option))]
    assert [fault for text in texts for fault in awkward(text.replace("\b", ""))] == []


@pytest.mark.parametrize("name", dagster_slurm.__all__)
def test_the_fields_of_a_resource(name: str) -> None:
    found = getattr(dagster_slurm, name)
    if isinstance(found, type) and issubclass(found, BaseModel):
        texts = {field: info.description or "" for field, info in found.model_fields.items()}
        assert [(field, fault) for field, text in texts.items() for fault in awkward(text)] == []
