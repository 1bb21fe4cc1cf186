"""Globs over names: by table, and as bash and Python expand them."""

from __future__ import annotations

import glob
import subprocess
from pathlib import Path

import pytest

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.staging.patterns import checked_output, fixed_part, matched_part, matching

NAMES = [
    *("a.csv", "b.csv", ".hidden.csv", "model.txt", "two words.csv", "x[1].dat"),
    *("out/a.csv", "out/deep/b.csv", "out/deep/er/c.txt", "out/.cache/d.csv", ".secret/e.csv", "other/out/f.csv"),
]
PATTERNS = [
    *("*.csv", "?.csv", "[ab].csv", "[!a].csv", "*", "a.csv", "out", "out/*", "out/*.csv", "out/**", "out/**/*.csv"),
    *(
        "**",
        "**/*.csv",
        "**/out/*.csv",
        "**/deep",
        ".*",
        ".hidden*",
        "x[[]1].dat",
        "out/*/*",
        "*/*.csv",
        "nothing*",
        "o?t",
    ),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def below(tree: Path, matches: list[str]) -> set[str]:
    """The matches as files: a directory stands for all that is below it."""
    files: set[str] = set()
    for match in matches:
        path = tree / match
        found = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        files.update(each.relative_to(tree).as_posix() for each in found)
    return files


@pytest.mark.parametrize("pattern", PATTERNS)
def test_as_bash_expands_them(tree: Path, pattern: str) -> None:
    script = 'shopt -s globstar nullglob; IFS=; for path in $1; do [ -e "$path" ] && printf "%s\\0" "$path"; done'
    done = subprocess.run(["bash", "-c", script, "bash", pattern], cwd=tree, capture_output=True, check=False)
    expanded = [name for name in done.stdout.decode().split("\0")[:-1] if not set(name.split("/")) & {".", ".."}]
    assert set(matching(pattern, NAMES)) == below(tree, expanded)


@pytest.mark.parametrize("pattern", [pattern for pattern in PATTERNS if not pattern.startswith(".")])
def test_as_python_expands_them(tree: Path, pattern: str) -> None:
    expanded = glob.glob(pattern, root_dir=tree, recursive=True)  # noqa: PTH207 - it is what is compared with
    assert set(matching(pattern, NAMES)) == below(tree, expanded)


@pytest.mark.parametrize(
    ("pattern", "name", "part"),
    [
        ("out", "out/deep/b.csv", "out"),
        ("o*", "out/deep/b.csv", "out"),
        ("out/*", "out/deep/b.csv", "out/deep"),
        ("out/**/*.csv", "out/deep/b.csv", "out/deep/b.csv"),
        ("a.csv", "b.csv", None),
    ],
)
def test_what_itself_is_matched(pattern: str, name: str, part: str | None) -> None:
    assert matched_part(pattern, name) == part


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        ("/data/*.csv", "/data/"),
        ("/data/**/x/*.csv", "/data/"),
        ("data/year=20??/*.csv", "data/"),
        ("*.csv", ""),
        ("/data/model.txt", "/data/"),
        ("model.txt", ""),
    ],
)
def test_from_where_names_count(pattern: str, part: str) -> None:
    assert fixed_part(pattern) == part


@pytest.mark.parametrize("pattern", ["", "/abs", "../x", "a/../b", "a//b", "./", ".", "a\nb", "a\\b", "a\0b"])
def test_outputs_that_are_none(pattern: str) -> None:
    with pytest.raises(InvalidRequestError):
        checked_output(pattern)


@pytest.mark.parametrize(("pattern", "plain"), [("./a", "a"), ("out/", "out"), ("out/*", "out/*")])
def test_outputs_as_they_are_written(pattern: str, plain: str) -> None:
    assert checked_output(pattern) == plain
