"""Numbers with their nouns: nowhere is "1 files" printed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.sources import parsed

import dagster_slurm
from dagster_slurm.text import counted

PACKAGE = Path(dagster_slurm.__file__).parent
NOUNS = ["asset", "byte", "component", "CPU", "file", "GPU", "job", "login", "node", "node-hour", "part", "partition"]
NOUNS += ["process", "rank", "run", "step", "task", "time", "warning"]
# An expression in front of a plural, where it is no number, or one that is never 1.
NEVER_ONE = {
    "args": "calls with more than three arguments by position alone",
    "asked": "advice on CPUs is given from two on",
    "called": "a kind of GPUs",
    "command": "a name",
    "len(args) - 1": "at least four",
    "len(keys)": "a range of several partitions",
    "len(results)": "one asset is no error",
    "self.most": "descriptors: a process needs more than one",
    "step.nodes": "one node is no error",
    "title": "of a job that runs",
    "told.components": "of a heterogeneous job",
}


@pytest.mark.parametrize(
    ("number", "noun", "form", "said"),
    [
        (0, "file", "", "0 files"),
        (1, "file", "", "1 file"),
        (2, "process", "", "2 processes"),
        (1, "process", "", "1 process"),
        (12345, "file", ",", "12,345 files"),
        (1.0, "node-hour", "g", "1 node-hour"),
        (1.0000001, "node-hour", "g", "1 node-hour"),
        (0.5, "node-hour", "g", "0.5 node-hours"),
    ],
)
def test_counted(number: float, noun: str, form: str, said: str) -> None:
    assert counted(number, noun, form) == said


def decimals(value: ast.FormattedValue) -> bool:
    """Whether it is written with some, as in "1.00 node-hours"."""
    return value.format_spec is not None and ast.unparse(value.format_spec).endswith("f'")


def plurals(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Of each f-string, the expressions right in front of the plural of a noun that is counted, with their lines."""
    nouns = {counted(2, noun).split()[1] for noun in NOUNS}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for value, behind in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(behind, ast.Constant) and not decimals(value):
                    space, *words = str(behind.value).replace(",", " ").replace(".", " ").split(" ")
                    if not space and words and words[0] in nouns:
                        yield node.lineno, ast.unparse(value.value)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("f'{n} files, {a.b} of them'\nf'{len(x)} jobs'", [(1, "n"), (2, "len(x)")]),
        ("f'{n:.2f} node-hours'", []),
        ("f'{n} of the files, {counted(n, noun)}'", []),
    ],
)
def test_plurals_are_found(tmp_path: Path, source: str, found: list[tuple[int, str]]) -> None:
    path = tmp_path / "source.py"
    path.write_text(source)
    assert list(plurals(parsed(path))) == found


def test_every_number_agrees_with_its_noun() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{line}: {expression}"
        for path in PACKAGE.rglob("*.py")
        for line, expression in plurals(parsed(path))
        if expression not in NEVER_ONE
    }
    assert not found, "use dagster_slurm.text.counted"
