"""Modules of dagster-slurm 1.22 that are not here: each re-exports the public names that it had there."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType
from typing import Any

from dagster_slurm.compat.refused import refused

PACKAGE = "dagster_slurm"

_RECONCILE = ("build_slurm_orphan_reconcile_sensor", "reconcile_orphaned_slurm_runs")
_METRICS = ("SlurmMetric", "SlurmMetricsCallback", "SlurmMetricsContext")
_CLIENTS = ("LocalPipesClient", "SlurmPipesClient")
PATHS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "auth": (),
        "auth.authentik": (),
        "auth.step_oidc": (),
        "config": ("ExecutionMode", "SlurmRunConfig"),
        "config.environment": ("ExecutionMode",),
        "config.runtime": ("SlurmRunConfig",),
        "helpers": (),
        "helpers.metrics": _METRICS,
        "launchers.base": ("ComputeLauncher",),
        "launchers.ray": ("RayLauncher", "RayPortConfig"),
        "launchers.script": ("BashLauncher",),
        "launchers.spark": ("SparkLauncher",),
        "managers": (),
        "managers.hetjob": (),
        "pipes_clients": _CLIENTS,
        "pipes_clients.local_pipes_client": ("LocalPipesClient",),
        "pipes_clients.slurm_pipes_client": ("SlurmPipesClient",),
        "ray": ("run_with_ray_reserve_topup", "wait_for_stable_ray_resources"),
        "resources.ssh": ("SSHConnectionResource",),
        "runners": (),
        "sensors": _RECONCILE,
    }
)
"""The modules below `dagster_slurm`, with their public names; whatever else is imported is refused at its first use."""

_WITH_MORE = ("helpers", "runners")
"""Packages whose modules all can be imported."""


def spec_of(name: str) -> ModuleSpec | None:
    """How a module of 1.22 is made; None if it is none.

    Args:
        name: With the package's own.
    """
    path = name.removeprefix(f"{PACKAGE}.")
    parent, _, last = path.rpartition(".")
    if path not in PATHS and not (parent in _WITH_MORE and last.isidentifier()):
        return None
    is_package = any(each.startswith(f"{path}.") for each in PATHS) or path in _WITH_MORE
    return ModuleSpec(name, _Loader(PATHS.get(path, ())), is_package=is_package)


class _Loader(Loader):
    """Makes a module of names.

    Args:
        names: What it re-exports.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As Python makes one."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Say what is in it; a name is looked for when it is used."""
        names = self._names

        def find(name: str) -> Any:
            if name in names:
                return getattr(import_module(PACKAGE), name)
            if name.startswith("_"):
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return refused(name)

        found: Any = module
        found.__all__ = list(names)
        found.__getattr__ = find
        module.__doc__ = "A module of dagster-slurm 1.22; import its names from `dagster_slurm`."
