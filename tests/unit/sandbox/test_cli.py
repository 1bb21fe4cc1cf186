"""The command line says in plain lines what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dagster_slurm.cli import main
from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox.startup import refuse_names


@pytest.fixture
def no_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DAGSTER_SLURM_SANDBOX_DIR", str(tmp_path)[:75])


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_help_says_what_the_sandbox_is_for() -> None:
    for arguments in (["--help"], ["sandbox", "--help"], ["sandbox", "up", "--help"]):
        assert "not for production" in " ".join(call(*arguments).output.split())


def test_version() -> None:
    assert call("--version").output.startswith("dagster-slurm, version ")


@pytest.mark.usefixtures("no_sandbox")
def test_errors_are_two_lines_and_no_traceback() -> None:
    result = call("sandbox", "env")
    assert result.exit_code == 1
    assert result.output == "dagster-slurm: The sandbox is not up\nRun `dagster-slurm sandbox up`.\n"


@pytest.mark.usefixtures("no_sandbox")
def test_status_without_a_sandbox_ends_with_3() -> None:
    result = call("sandbox", "status")
    assert (result.exit_code, result.output) == (3, "up:      no\nready:   no\n")


@pytest.mark.usefixtures("no_sandbox")
def test_parts_are_listed() -> None:
    assert "network:n3" in call("sandbox", "break").output.split()


def test_an_unknown_command_is_refused() -> None:
    assert call("sandbocks").exit_code == 2


@pytest.mark.usefixtures("no_sandbox")
def test_without_a_sandbox_the_list_is_empty(tmp_path: Path) -> None:
    assert call("sandbox", "list").output == f"There is no sandbox in {str(tmp_path)[:75]}.\n"
    assert json.loads(call("sandbox", "list", "--json").output) == {"sandboxes": []}


@pytest.mark.parametrize("user", ["Ada", "aDa", "0ada", "ada.lovelace", "-ada", "", "a" * 33, "ada bo"])
def test_users_that_no_cluster_would_know_are_refused(user: str) -> None:
    with pytest.raises(SandboxError, match="is not a name for a user of a sandbox"):
        refuse_names(["fine", user])


@pytest.mark.parametrize("user", ["ada", "ada_2", "_ada", "ada-bo"])
def test_users_that_are_taken(user: str) -> None:
    refuse_names([user])
