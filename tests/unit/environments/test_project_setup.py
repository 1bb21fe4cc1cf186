"""Environments that a command makes: their key, what is sent, and what the installing lines do, run by bash here."""

import os
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from dagster_slurm import ComputeResource, SlurmResource
from dagster_slurm.environments.project_setup import SetUp, SetupRecipe
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.resources.call import work_of

TARGET: Any = None


def recipe(project: Path, *command: str, **fields: Any) -> SetupRecipe:
    return SetupRecipe(project, command or ("true",), **fields)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project" / "requirements").mkdir(parents=True)
    (tmp_path / "project" / "requirements" / "a.txt").write_text("numpy\n")
    (tmp_path / "project" / "set-up.sh").write_text("#!/bin/sh\nmkdir $DAGSTER_SLURM_ENV_BASE_DIR/$NAME\n")
    (tmp_path / "project" / "set-up.sh").chmod(0o755)
    return tmp_path / "project"


def test_what_makes_it_another(project: Path) -> None:
    def key(**fields: Any) -> object:
        return recipe(project, "make", input_globs=("requirements/*.txt",), **fields).key_inputs(TARGET)

    first = key()
    assert key() == first
    assert key(variables={"A": "b"}) != first
    (project / "set-up.sh").write_text("true\n")
    assert key() == first
    (project / "requirements" / "a.txt").write_text("scipy\n")
    assert key() != first


def test_what_is_sent(project: Path) -> None:
    (part,) = recipe(project, input_globs=("**/*.txt", "set-up.sh")).pack(TARGET, print).parts
    content = part.fetch()
    assert isinstance(content, bytes)
    with tarfile.open(fileobj=BytesIO(content)) as tar:
        assert {each.name: each.mode for each in tar} == {"requirements/a.txt": 0o644, "set-up.sh": 0o755}


@pytest.mark.parametrize("pattern", ["../*", "none/*"])
def test_files_are_within_the_project_and_there(project: Path, pattern: str) -> None:
    (project.parent / "outside").write_text("")
    with pytest.raises(InvalidRequestError, match="project_setup_input_globs"):
        recipe(project, input_globs=(pattern,)).pack(TARGET, print)


def installed(project: Path, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    pack = recipe(project, *command, variables=variables, input_globs=("set-up.sh",)).pack(TARGET, print)
    here, parts = project.parent / "entry", project.parent / "parts"
    here.mkdir()
    parts.mkdir()
    content = pack.parts[0].fetch()
    assert isinstance(content, bytes)
    (parts / pack.parts[0].name).write_bytes(content)
    argv = ["bash", "-c", 'set -e; eval "$1"', "bash", pack.install]
    return subprocess.run(
        argv, cwd=here, env={**os.environ, "parts": str(parts)}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("name", "default"), [("analysis", "analysis"), ("default", ""), ("a b", None)])
def test_the_only_one_is_the_default(project: Path, name: str, default: str | None) -> None:
    done = installed(project, "sh", "-c", 'mkdir "$DAGSTER_SLURM_ENV_BASE_DIR/$NAME"', NAME=name)
    assert done.returncode == 0, done.stderr
    entry = project.parent / "entry"
    assert (entry / "activate.sh").read_text() == ":\n"
    assert (entry / "environments" / name).is_dir()
    link = entry / "environments" / "default"
    assert (str(link.readlink()) if link.is_symlink() else "" if link.exists() else None) == default


def test_the_command_runs_in_the_copy(project: Path) -> None:
    assert installed(project, "./set-up.sh", NAME="x").returncode == 0
    copy = project.parent / "entry" / "project" / "set-up.sh"
    assert copy.read_text() == (project / "set-up.sh").read_text()


def test_a_command_that_fails(project: Path) -> None:
    done = installed(project, "false")
    assert done.returncode == 1
    assert not (project.parent / "entry" / "activate.sh").exists()


def test_a_command_that_makes_nothing(project: Path) -> None:
    done = installed(project, "true")
    assert done.returncode == 1
    assert "has made nothing in $DAGSTER_SLURM_ENV_BASE_DIR" in done.stderr


@pytest.mark.parametrize(
    ("command", "words"), [("make envs", ("bash", "-c", "make envs")), (["make", "envs"], ("make", "envs"))]
)
def test_the_resource_s_fields(
    project: Path, monkeypatch: pytest.MonkeyPatch, command: Any, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(project)
    (project / "a.sh").write_text("true\n")
    compute = ComputeResource(
        mode="slurm",
        slurm=SlurmResource(),
        project_setup_cmd=command,
        project_setup_env={"A": "b"},
        project_setup_input_globs=["set-up.sh"],
    )
    spec = work_of(compute, None, {"payload_path": "a.sh", "environment_name": "analysis"})
    made = SetupRecipe(project, words, {"A": "b"}, ("set-up.sh",))
    assert spec.environment == SetUp(made, "analysis")
    assert spec.said["environment"].source == "resource"
    assert work_of(compute, None, {"payload_path": "a.sh"}).environment == SetUp(made, "default")


def test_what_else_is_named_wins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    (project / "a.sh").write_text("true\n")
    setup: Any = "make"
    compute = ComputeResource(
        mode="slurm", slurm=SlurmResource(), project_setup_cmd=setup, pre_deployed_env_path="/env"
    )
    assert work_of(compute, None, {"payload_path": "a.sh"}).environment.title == "/env"
