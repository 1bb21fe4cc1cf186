"""Our components and a new project, with Dagster's own command."""

import os
import subprocess
from pathlib import Path

import pytest

from dagster_slurm.new_project import write_project
from dagster_slurm.new_project.source import running_source
from tests.support import forked

pytestmark = pytest.mark.process


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "demo", running_source())


def dg(project: Path, *arguments: str) -> str:
    """What it prints, in that project, whose package is found though it is not installed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "DAGSTER_"))}
    path = f"{project / 'src'}:{os.environ.get('PYTHONPATH', '')}"
    variables = {**inherited, "PATH": f"{forked.programs()}:{os.environ['PATH']}", "PYTHONPATH": path}
    done = subprocess.run(
        ["dg", *arguments], cwd=project, env=variables, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_a_new_project_is_in_order(project: Path) -> None:
    assert "All definitions loaded successfully." in dg(project, "check", "defs")
    listed = dg(project, "list", "defs", "--json")
    assert '"numbers"' in listed
    assert '"products"' in listed


def test_the_list_of_components_has_ours(project: Path) -> None:
    listed = dg(project, "list", "components", "--json")
    assert "dagster_slurm.SlurmResourcesComponent" in listed
    assert "dagster_slurm.SlurmScriptComponent" in listed
    assert "dagster_slurm.SlurmHetJobComponent" in listed


def test_what_it_scaffolds_runs(project: Path) -> None:
    dg(project, "scaffold", "defs", "dagster_slurm.SlurmScriptComponent", "more/numbers2")
    assert not (project / "src" / "demo" / "defs" / "more" / "compute").exists()
    assert "RUN_SUCCESS" in dg(project, "launch", "--assets", "numbers2")
