"""docs/reliability.md and the suite have the same rows, and each belongs to a test that there is."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.sources import parsed

from . import settings_page, table
from .rows import LINES, Line
from .settings import SETTINGS

TESTS = Path(__file__).parents[1]


def test_the_page_has_the_rows_of_the_suite() -> None:
    rows = table.rows_of(table.PAGE.read_text(encoding="utf-8"))
    assert rows == [(line.text, line.test) for line in LINES.values()]


def test_the_page_on_wrong_settings_has_those_of_the_suite() -> None:
    rows = settings_page.rows_of(settings_page.PAGE.read_text(encoding="utf-8"))
    assert rows == [wrong.text for wrong in SETTINGS.values()]
    assert len(rows) == 40
    assert sum(wrong.is_quick for wrong in SETTINGS.values()) == 10


@pytest.mark.process
def test_the_page_names_what_the_short_suite_leaves_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Written again by `python -m tests.faults.table`. At the end of `make faults` it must not begin another end."""
    monkeypatch.setenv("FAULTS", "all")
    monkeypatch.setenv("FAULTS_FIGURES", str(tmp_path))
    assert table.PAGE.read_text(encoding="utf-8").endswith(table.long_section())


def test_the_long_suite_has_what_the_page_names() -> None:
    """A test that the short suite leaves out, and that lies nowhere where the long one looks, is never run."""
    argv = ["make", "--dry-run", "--always-make", "faults"]
    said = subprocess.run(argv, cwd=TESTS.parent, capture_output=True, text=True, check=True).stdout
    looked_at = re.findall(r"\btests/\S+", re.sub(r"tests/support\S*", "", said))
    named = re.findall(r"^- `([^:`]+)", table.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    sampled = [path for path in TESTS.rglob("test_*.py") if "pytest.mark.sampled" in path.read_text(encoding="utf-8")]
    named += [str(path.relative_to(TESTS)) for path in sampled if path != Path(__file__)]
    assert len(looked_at) > 5
    assert {name for name in named if not any(f"tests/{name}".startswith(each) for each in looked_at)} == set()


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_every_row_belongs_to_a_test(line: Line) -> None:
    path, _, name = line.test.partition("::")
    tree = parsed(TESTS / path)
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert name.rpartition("::")[2] in names


def test_every_test_that_records_figures_has_a_row() -> None:
    named = {line.test for line in LINES.values()}
    for path in sorted(TESTS.glob("faults/test_*.py")):
        tree = parsed(path)
        tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and _records(node)]
        assert {f"faults/{path.name}::{name}" for name in tests} <= named


def _records(test: ast.FunctionDef) -> bool:
    return test.name.startswith("test_") and "record" in {argument.arg for argument in test.args.args}
