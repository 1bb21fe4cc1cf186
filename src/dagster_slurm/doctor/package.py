"""Which package it is: on PyPI, another one has its name."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dagster_slurm.doctor.finding import Finding, fine, wrong
from dagster_slurm.doctor.world import World
from dagster_slurm.version import __version__

_PACKAGE = "package"
_NAME = "dagster-slurm"


def check_package(world: World) -> Finding:
    """What is imported, and what is installed by that name."""
    del world  # nothing of the cluster
    try:
        installed = version(_NAME)
    except PackageNotFoundError:
        installed = None
    return judge_package(__version__, Path(__file__).parents[1], installed)


def judge_package(imported: str, path: Path, installed: str | None) -> Finding:
    """Whether both are the same.

    Args:
        imported: The version of the package that runs.
        path: Its directory.
        installed: The version that this environment has by that name; None for none.
    """
    if installed in (None, imported):
        return fine(_PACKAGE, f"{_NAME} {imported}, in {path}")
    return wrong(
        _PACKAGE,
        f"{_NAME} {imported} is imported from {path}, and {installed} is installed by that name",
        "Uninstall the latter, which is another package if it comes from PyPI, and install this one from its clone, "
        "wheel or repository.",
    )
