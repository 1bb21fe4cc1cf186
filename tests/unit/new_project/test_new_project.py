"""A new project's files, and the place that its `pyproject.toml` names."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from dagster_slurm.cli import main
from dagster_slurm.errors import ConfigurationError
from dagster_slurm.new_project import files_of, module_of, write_project
from dagster_slurm.new_project.check import fault, fault_of_installation
from dagster_slurm.new_project.source import Source, of_direct_url, of_text, running_source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[3]
CLONE = Source({"path": "/home/me/it's here", "editable": True})


@pytest.mark.parametrize(
    ("noted", "table"),
    [
        (
            {"url": "https://git.example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            {"git": "https://git.example.org/x.git", "rev": "abc"},
        ),
        (
            {
                "url": "ssh://git@example.org/x",
                "vcs_info": {"vcs": "git", "commit_id": "abc"},
                "subdirectory": "py",
            },
            {"git": "ssh://git@example.org/x", "rev": "abc", "subdirectory": "py"},
        ),
        (
            {"url": "https://example.org/dagster_slurm-1-py3-none-any.whl", "archive_info": {}},
            {"url": "https://example.org/dagster_slurm-1-py3-none-any.whl"},
        ),
    ],
)
def test_places_far_away(noted: dict[str, Any], table: dict[str, Any]) -> None:
    assert of_direct_url(noted).table == table


@pytest.mark.parametrize("is_editable", [True, False])
def test_a_clone(is_editable: bool, tmp_path: Path) -> None:
    directory = tmp_path / "a clone"
    directory.mkdir()
    noted = {"url": directory.as_uri(), "dir_info": {"editable": True} if is_editable else {}}
    assert of_direct_url(noted).table == {"path": str(directory), **({"editable": True} if is_editable else {})}


def test_a_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "dagster_slurm-1-py3-none-any.whl"
    wheel.touch()
    assert of_direct_url({"url": wheel.as_uri(), "archive_info": {}}).table == {"path": str(wheel)}


@pytest.mark.parametrize(
    ("noted", "said"),
    [
        (None, "it came from a package index"),
        ({"url": "file:///nowhere/x.whl", "archive_info": {}}, "/nowhere/x.whl, which is gone"),
        ({"url": "https://example.org/x", "vcs_info": {"vcs": "hg", "commit_id": "1"}}, "with hg, which uv cannot"),
    ],
)
def test_places_that_cannot_be_named(noted: dict[str, Any] | None, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        of_direct_url(noted)
    assert "--source" in str(caught.value)


def test_what_a_user_names(tmp_path: Path) -> None:
    (tmp_path / "x.whl").touch()
    assert of_text(str(tmp_path)).table == {"path": str(tmp_path), "editable": True}
    assert of_text(str(tmp_path / "x.whl")).table == {"path": str(tmp_path / "x.whl")}
    assert of_text("https://example.org/x.whl").table == {"url": "https://example.org/x.whl"}
    assert of_text("https://example.org/x.git").table == {"git": "https://example.org/x.git"}
    assert of_text("git+https://example.org/x").table == {"git": "https://example.org/x"}
    with pytest.raises(ConfigurationError, match="There is no /nowhere"):
        of_text("/nowhere")


def test_the_running_one_is_this_clone() -> None:
    assert running_source().table == {"path": str(ROOT), "editable": True}


@pytest.mark.parametrize(("name", "module"), [("demo", "demo"), ("My-Forecasts2", "my_forecasts2"), ("x", "x")])
def test_names(name: str, module: str) -> None:
    assert module_of(name) == module


@pytest.mark.parametrize("name", ["json", "dagster", "1st", "a b", "class", "-x", "x-", "", "dagster-slurm"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is no name|is a package"):
        module_of(name)


def test_the_files_are_whole() -> None:
    files = files_of("my-project", CLONE, "uv")
    assert {"Makefile", ".gitignore", "README.md", "tests/test_project.py"} <= files.keys()
    assert not any("@" in path or path.endswith(".in") for path in files)
    for path, text in files.items():
        assert "@MODULE@" not in text
        if path.endswith(".py"):
            ast.parse(text)
        elif path.endswith(".yaml"):
            assert yaml.safe_load(text)["type"].startswith("dagster_slurm.")
    project = tomllib.loads(files["pyproject.toml"])
    assert project["project"]["name"] == "my-project"
    assert project["tool"]["dg"]["project"]["root_module"] == "my_project"
    assert project["tool"]["uv"]["sources"] == {"dagster-slurm": CLONE.table}
    assert "src/my_project/defs/numbers/payload.py" in files
    assert "python -m my_project" in files["Makefile"]


def test_it_writes_into_an_empty_directory_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    write_project(tmp_path / "demo", CLONE)
    assert (tmp_path / "demo" / "src" / "demo" / "definitions.py").is_file()
    with pytest.raises(ConfigurationError, match="There is something in"):
        write_project(tmp_path / "demo", CLONE)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(main, ["init", "demo"])
    assert said.exit_code == 0, said.output
    assert said.output.splitlines()[-1] == "Next: cd demo && make demo"
    again = CliRunner().invoke(main, ["init", "demo"])
    assert again.exit_code == 1
    assert "There is something in demo already" in again.output


NAMED = {"path": "/home/me/clone", "editable": True}


@pytest.mark.parametrize(
    ("named", "noted", "said"),
    [
        (None, {"url": "https://example.org/x.whl"}, "names no source of dagster-slurm"),
        (NAMED, None, "it came from a package index"),
        (NAMED, {"url": "https://example.org/x.whl"}, "`uv sync` mends it"),
        ({"url": "https://example.org/x.whl"}, {"url": "https://example.org/x.whl"}, ""),
        (
            {"git": "https://example.org/x", "branch": "main"},
            {"url": "https://example.org/x", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "",
        ),
    ],
)
def test_what_is_installed_is_what_is_named(named: Any, noted: Any, said: str) -> None:
    found = fault(named, noted)
    assert (said in found) if said else found == ""


def test_a_project_without_such_an_entry(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert "names no source" in fault_of_installation(tmp_path / "pyproject.toml")
