"""What the code has, the documentation names, and the other way round."""

from __future__ import annotations

import re
from typing import Any

import pytest

import dagster_slurm
from dagster_slurm import (
    ComputeResource,
    ExecutionMode,
    SlurmMetric,
    SlurmQueueConfig,
    SlurmResource,
    SlurmRunConfig,
    SSHConnectionResource,
    errors,
)
from dagster_slurm.doctor import STEPS
from dagster_slurm.resources.call import OPTIONS_KEY, SETTINGS
from dagster_slurm.resources.parallel_launchers import LAUNCHERS
from dagster_slurm.slurm.reasons import parse_reason
from tests.docs.markdown import PAGES, ROOT

SOURCE = ROOT / "src" / "dagster_slurm"


def _page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def _section(text: str, heading: str) -> str:
    """The part of a page below a heading, up to the next of its level or above."""
    start = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert start, f"there is no heading {heading!r}"
    rest = text[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


@pytest.mark.parametrize(
    "resource", [ComputeResource, SlurmResource, SlurmQueueConfig, SSHConnectionResource, SlurmRunConfig]
)
def test_every_field_of_a_resource_is_documented_and_no_other(resource: Any) -> None:
    heading = resource.__name__ if resource is not SlurmRunConfig else "SlurmRunConfig"
    section = _section(_page("configuration"), f"`{heading}`")
    fields = set(resource.model_fields)
    assert [field for field in fields if f"`{field}`" not in section] == []
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} <= fields


def test_defaults_are_the_documented_ones() -> None:
    section = _section(_page("configuration"), "`SlurmQueueConfig`")
    for name, default in (("num_nodes", "1"), ("time_limit", "`00:30:00`"), ("cpus", "2"), ("mem", "`4096M`")):
        assert f"| `{name}` | {default} |" in section
        assert str(SlurmQueueConfig.model_fields[name].default) == default.strip("`")


def test_every_environment_variable_is_documented_and_no_other() -> None:
    text = _section(_page("configuration"), "Environment variables")
    documented = set(re.findall(r"`((?:SLURM|DAGSTER_SLURM)_[A-Z_]+[A-Z])`", text))
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in (
            *SOURCE.glob("resources/*.py"),
            SOURCE / "variables.py",
            SOURCE / "transport" / "ssh_connection.py",
        )
    )
    whole = set(re.findall(r'"((?:SLURM|DAGSTER_SLURM)_[A-Z_]+[A-Z])"', source))
    suffixes = set(re.findall(r"\{prefix\}([A-Z][A-Z_]*)", source)) - {"JUMP_"} | {"JUMP_HOST", "JUMP_USER"}
    assert documented == whole | {f"SLURM_EDGE_NODE_{suffix}" for suffix in suffixes}


def test_every_key_of_asset_metadata_is_documented() -> None:
    section = _section(_page("configuration"), "Asset metadata")
    keys = {OPTIONS_KEY, *(row.metadata for row in SETTINGS if row.metadata)}
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == keys


def test_every_figure_of_a_job_is_documented() -> None:
    section = _section(_page("runs"), "Metadata")
    documented = {
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert documented == {metric.value for metric in SlurmMetric}


def test_every_error_is_documented() -> None:
    page = _page("errors")
    classes = [
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    assert [name for name in classes if f"`{name}`" not in page] == []


def test_the_reasons_of_the_page_on_waiting_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", _page("waiting"), re.MULTILINE)
    assert len(rows) > 25
    for code, words, ends in rows:
        reason = parse_reason(code)
        assert (words, ends) == (reason.words, reason.ends.replace("{job}", "ID"))
    warned = re.findall(r"^\| `(\w+)` \|", _section(_page("waiting"), "Somebody has to do something"), re.MULTILINE)
    assert {code for code, _, _ in rows if parse_reason(code).needs_action} == set(warned)


@pytest.mark.parametrize("mode", ExecutionMode)
def test_every_mode_stands_in_both_tables(mode: ExecutionMode) -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "execution-modes.md"):
        assert f"\n| `{mode.value}` |" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "line"),
    [
        ("components", "| `run.launcher` |"),
        ("profiles", "| `launchers.bash`"),
        ("execution-modes", "| `local` | `Bash"),
    ],
)
def test_every_launcher_stands_in_the_tables(page: str, line: str) -> None:
    (row,) = [each for each in _page(page).splitlines() if each.startswith(line)]
    told = re.findall(r"\w+", row)
    assert [word for word, launcher in LAUNCHERS.items() if not {word, launcher.__name__} & set(told)] == []


def test_the_page_on_launchers_begins_with_all_of_them() -> None:
    first = _page("launchers").split("\n\n")[1]
    assert [each.__name__ for each in LAUNCHERS.values() if f"`{each.__name__}" not in first] == []


def test_every_step_of_the_doctor_has_a_row_in_its_place() -> None:
    rows = re.findall(r"^\| `([a-z ]+)` \|", _section(_page("doctor"), "Steps"), re.MULTILINE)
    assert rows == [step.name for step in STEPS]


def test_the_two_reports_of_the_doctor_end_alike() -> None:
    text, in_json = re.findall(r"Wrong: partition; [^\"\n]*", _page("doctor"))
    assert text == in_json


def test_every_public_name_is_documented() -> None:
    # These are for those who write a client of their own, and are documented where they are.
    inner = {"LocalPipesClient", "SlurmPipesClient"}
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in dagster_slurm.__all__ if name not in inner and name not in text] == []


def test_every_dependency_has_its_reason() -> None:
    reasons = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    example = (ROOT / "examples" / "lookouts" / "requirements.txt").read_text(encoding="utf-8")
    listed = re.findall(r'^    "([a-z-]+)[<>=]', project, re.MULTILINE)
    listed += re.findall(r"^([a-z-]+)[<>=]", example, re.MULTILINE)
    assert "dagster" in listed
    assert [name for name in listed if f"`{name}`" not in reasons] == []
