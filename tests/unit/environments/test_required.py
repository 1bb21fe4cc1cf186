"""Packages that a launcher needs: looked for in the lock, before anything is asked of the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagster_slurm import (
    ComputeLauncher,
    ComputeResource,
    MPILauncher,
    PixiEnvironment,
    RayLauncher,
    SlurmResource,
    SparkLauncher,
    TorchrunLauncher,
    UvEnvironment,
)
from dagster_slurm.environments import ClusterPython, Deployed, Provider, refuse_without
from dagster_slurm.errors import InvalidRequestError

UV = """
version = 1
requires-python = ">=3.10"
[[package]]
name = "plates"
version = "0.1.0"
source = { virtual = "." }
dependencies = [{ name = "numpy" }]
[package.dev-dependencies]
mpi = [{ name = "mpi4py" }]
[[package]]
name = "numpy"
version = "2.4.1"
source = { registry = "https://index.invalid/simple" }
sdist = { url = "https://index.invalid/numpy-2.4.1.tar.gz", hash = "sha256:ZEROS" }
[[package]]
name = "mpi4py"
version = "4.1.2"
source = { registry = "https://index.invalid/simple" }
sdist = { url = "https://index.invalid/mpi4py-4.1.2.tar.gz", hash = "sha256:ZEROS" }
""".replace("ZEROS", "0" * 64)
PIXI = """
version: 6
environments:
  default:
    channels:
    - url: https://conda.invalid/
    packages:
      linux-64:
      - conda: https://conda.invalid/linux-64/pytorch-2.9.0-cpu_0.conda
packages:
- conda: https://conda.invalid/linux-64/pytorch-2.9.0-cpu_0.conda
  sha256: '00'
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "plates"\nversion = "0.1.0"\n[dependency-groups]\nmpi = ["mpi4py"]\n'
    )
    (tmp_path / "uv.lock").write_text(UV)
    (tmp_path / "pixi.toml").write_text("[workspace]\n")
    (tmp_path / "pixi.lock").write_text(PIXI)
    return tmp_path


def test_what_the_lock_lacks_is_refused_with_the_line_that_adds_it(project: Path) -> None:
    uv, pixi = UvEnvironment(project_dir=str(project)).provider(), PixiEnvironment(project_dir=str(project)).provider()
    refuse_without(uv, ["numpy"], "It")
    with pytest.raises(
        InvalidRequestError, match="It needs mpi4py, and the lock of the uv project plates does not"
    ) as e:
        refuse_without(uv, ["numpy", "mpi4py"], "It")
    assert e.value.hint == "`uv add mpi4py` adds it."
    with pytest.raises(InvalidRequestError) as e:
        refuse_without(pixi, ["mpi4py"], "It")
    assert e.value.hint == "`pixi add mpi4py` adds it."


def test_what_conda_calls_otherwise_is_found(project: Path) -> None:
    refuse_without(PixiEnvironment(project_dir=str(project)).provider(), ["torch"], "It")


@pytest.mark.parametrize(
    "options",
    [{"groups": ["mpi"]}, {"setup_commands": ["module load mpi4py"]}],
    ids=["in a group", "a module may have it"],
)
def test_not_refused(project: Path, options: dict[str, list[str]]) -> None:
    refuse_without(UvEnvironment(project_dir=str(project), **options).provider(), ["mpi4py"], "It")


@pytest.mark.parametrize("provider", [ClusterPython(), Deployed("/shared/envs/plates")], ids=str)
def test_what_has_no_lock_is_not_refused(provider: Provider) -> None:
    refuse_without(provider, ["mpi4py"], "It")


# pytorch is in the lock of pixi.
LAUNCHERS = [
    (RayLauncher(), UvEnvironment, "ray", "uv add ray"),
    (RayLauncher(), PixiEnvironment, "ray", "pixi add ray-default"),
    (SparkLauncher(), UvEnvironment, "pyspark", "uv add pyspark"),
    (SparkLauncher(), PixiEnvironment, "pyspark", "pixi add pyspark"),
    (MPILauncher(), UvEnvironment, "mpi4py", "uv add mpi4py"),
    (MPILauncher(), PixiEnvironment, "mpi4py", "pixi add mpi4py"),
    (TorchrunLauncher(), UvEnvironment, "torch", "uv add torch"),
]


@pytest.mark.parametrize(("launcher", "kind", "package", "adding"), LAUNCHERS, ids=lambda each: type(each).__name__)
def test_the_launcher_of_a_call_is_asked(
    project: Path,
    launcher: ComputeLauncher,
    kind: type[UvEnvironment | PixiEnvironment],
    package: str,
    adding: str,
) -> None:
    (project / "heat.py").touch()
    environment = kind(project_dir=str(project))
    compute = ComputeResource(mode="slurm", slurm=SlurmResource(), environment=environment, default_launcher=None)
    with pytest.raises(InvalidRequestError, match=f"{type(launcher).__name__} needs {package}, and the lock") as e:
        compute.plan(None, project / "heat.py", launcher=launcher)
    assert e.value.hint == f"`{adding}` adds it."
