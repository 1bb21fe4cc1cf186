"""What `dg scaffold defs` writes: assets that run as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from dagster import Scaffolder, ScaffoldRequest, scaffold_component
from pydantic import BaseModel

from dagster_slurm.new_project import first_payload

FROM_ENV = "from_env"
HERE_OR_THERE: Mapping[str, Any] = {
    "mode": "{{ 'slurm' if env.SLURM_EDGE_NODE_HOST or env.DAGSTER_SLURM_PROFILE else 'local' }}",
    "slurm": FROM_ENV,
    "pre_deployed_env_path": "{{ env.CLUSTER_ENVIRONMENT }}",
}
"""On this machine, or on the cluster that the environment variables name."""
_RESOURCES = "dagster_slurm.SlurmResourcesComponent"
# How a project says that it has a resource already.
_SAYS_SO = ("ComputeResource", "SlurmResourcesComponent")


class ResourcesScaffolder(Scaffolder[BaseModel]):
    """Writes a `compute` that runs here, or on the cluster of the environment variables."""

    def scaffold(self, request: ScaffoldRequest[BaseModel]) -> None:
        """Write the resource."""
        scaffold_component(request, {"resources": {"compute": dict(HERE_OR_THERE)}})


class ScriptScaffolder(Scaffolder[BaseModel]):
    """Writes an asset and its payload, and the resource beside them where the project has none."""

    def scaffold(self, request: ScaffoldRequest[BaseModel]) -> None:
        """Write the component's file and a payload."""
        name = request.target_path.name
        scaffold_component(
            request,
            {
                "execution": {"path": "payload.py"},
                "run": {"extras": {"count": 1000}, "extra_slurm_opts": {"time_limit": "10 min"}},
                "assets": [{"key": name}],
            },
        )
        directory = request.target_path.parent if request.append else request.target_path
        if not (directory / "payload.py").exists():
            (directory / "payload.py").write_text(first_payload(), encoding="utf-8")
        beside = directory.parent / "compute"
        if not beside.exists() and not _has_resource(request.project_root or directory.parent):
            beside.mkdir()
            click.echo(f"Creating the resource `compute` at {beside}.")
            ResourcesScaffolder().scaffold(
                replace(request, type_name=_RESOURCES, target_path=beside, scaffold_format="yaml", append=False)
            )


def _has_resource(project: Path) -> bool:
    files = (file for pattern in ("*.py", "*.yaml", "*.yml") for file in _below(project, pattern))
    return any(word in file.read_text(encoding="utf-8", errors="replace") for file in files for word in _SAYS_SO)


def _below(project: Path, pattern: str) -> list[Path]:
    found = project.rglob(pattern)
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(project).parts)]
