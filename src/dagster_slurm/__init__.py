"""Run Dagster assets as Slurm jobs: live logs, metrics and lineage, exactly one job for one piece of work."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from dagster_slurm.clients import LocalPipesClient, SlurmPipesClient
    from dagster_slurm.compat.refused import (
        SlurmAllocation,
        SlurmAllocationEnded,
        SlurmStepDrained,
        SlurmStepExecutionResult,
        SlurmWorkerAllocationConfig,
        run_with_ray_reserve_topup,
        wait_for_stable_ray_resources,
    )
    from dagster_slurm.components import SlurmHetJobComponent, SlurmResourcesComponent, SlurmScriptComponent
    from dagster_slurm.environments import Needs, Pack, Part, Target
    from dagster_slurm.executor import threaded_executor
    from dagster_slurm.launchers import Hook, LaunchPlan, Payload, Place, Requirements, nodes_hook, payload_command
    from dagster_slurm.pipes.component_results import SlurmHetInvocation
    from dagster_slurm.pipes.dagster_storage import KeptSqliteEventLogStorage
    from dagster_slurm.pipes.partition_results import SlurmPartitionsInvocation
    from dagster_slurm.reconcile import reconcile_orphaned_slurm_runs
    from dagster_slurm.reconcile.calls import build_slurm_orphan_reconcile_sensor
    from dagster_slurm.resources.compute import ComputeResource, ExecutionMode
    from dagster_slurm.resources.environments import (
        ContainerEnvironment,
        Environment,
        ModuleEnvironment,
        NoEnvironment,
        PixiEnvironment,
        UvEnvironment,
    )
    from dagster_slurm.resources.io_manager import SlurmPathIOManager
    from dagster_slurm.resources.job_plan import JobPlan
    from dagster_slurm.resources.launchers import BashLauncher, ComputeLauncher
    from dagster_slurm.resources.metrics_context import SlurmMetricsContext
    from dagster_slurm.resources.parallel_launchers import (
        MPILauncher,
        RayLauncher,
        RayPortConfig,
        SparkLauncher,
        TorchrunLauncher,
    )
    from dagster_slurm.resources.session import (
        SlurmAllocationScope,
        SlurmRunAllocationConfig,
        SlurmSessionResource,
    )
    from dagster_slurm.resources.session_cluster import SessionCluster
    from dagster_slurm.resources.settings import (
        SlurmMetric,
        SlurmMetricsCallback,
        SlurmRetryPolicy,
        SlurmRunConfig,
    )
    from dagster_slurm.resources.slurm import SlurmQueueConfig, SlurmResource, SSHConnectionResource
    from dagster_slurm.slurm.request import JobRequest
    from dagster_slurm.staging import RemotePath
    from dagster_slurm.version import __version__


def refuse_windows(platform: str) -> None:
    """One sentence in place of "No module named fcntl".

    Raises:
        ImportError: It is Windows.
    """
    if platform == "win32":
        raise ImportError("dagster-slurm does not run on Windows itself: install it in WSL, Windows' own Linux")


refuse_windows(sys.platform)
_ROOMS = {
    "BashLauncher": "resources.launchers",
    "ComputeLauncher": "resources.launchers",
    "ComputeResource": "resources.compute",
    "ContainerEnvironment": "resources.environments",
    "Environment": "resources.environments",
    "ExecutionMode": "resources.compute",
    "Hook": "launchers",
    "JobPlan": "resources.job_plan",
    "JobRequest": "slurm.request",
    "KeptSqliteEventLogStorage": "pipes.dagster_storage",
    "LaunchPlan": "launchers",
    "LocalPipesClient": "clients",
    "MPILauncher": "resources.parallel_launchers",
    "ModuleEnvironment": "resources.environments",
    "Needs": "environments",
    "NoEnvironment": "resources.environments",
    "Pack": "environments",
    "Part": "environments",
    "Payload": "launchers",
    "PixiEnvironment": "resources.environments",
    "Place": "launchers",
    "RayLauncher": "resources.parallel_launchers",
    "RayPortConfig": "resources.parallel_launchers",
    "RemotePath": "staging",
    "Requirements": "launchers",
    "SSHConnectionResource": "resources.slurm",
    "SessionCluster": "resources.session_cluster",
    "SlurmAllocation": "compat.refused",
    "SlurmAllocationEnded": "compat.refused",
    "SlurmAllocationScope": "resources.session",
    "SlurmMetric": "resources.settings",
    "SlurmMetricsCallback": "resources.settings",
    "SlurmMetricsContext": "resources.metrics_context",
    "SlurmHetInvocation": "pipes.component_results",
    "SlurmHetJobComponent": "components",
    "SlurmPartitionsInvocation": "pipes.partition_results",
    "SlurmPathIOManager": "resources.io_manager",
    "SlurmPipesClient": "clients",
    "SlurmQueueConfig": "resources.slurm",
    "SlurmResource": "resources.slurm",
    "SlurmResourcesComponent": "components",
    "SlurmRetryPolicy": "resources.settings",
    "SlurmRunAllocationConfig": "resources.session",
    "SlurmRunConfig": "resources.settings",
    "SlurmScriptComponent": "components",
    "SlurmSessionResource": "resources.session",
    "SlurmStepDrained": "compat.refused",
    "SlurmStepExecutionResult": "compat.refused",
    "SlurmWorkerAllocationConfig": "compat.refused",
    "SparkLauncher": "resources.parallel_launchers",
    "Target": "environments",
    "TorchrunLauncher": "resources.parallel_launchers",
    "UvEnvironment": "resources.environments",
    "__version__": "version",
    "build_slurm_orphan_reconcile_sensor": "reconcile.calls",
    "nodes_hook": "launchers",
    "payload_command": "launchers",
    "reconcile_orphaned_slurm_runs": "reconcile",
    "run_with_ray_reserve_topup": "compat.refused",
    "threaded_executor": "executor",
    "wait_for_stable_ray_resources": "compat.refused",
}

__all__ = [
    "BashLauncher",
    "ComputeLauncher",
    "ComputeResource",
    "ContainerEnvironment",
    "Environment",
    "ExecutionMode",
    "Hook",
    "JobPlan",
    "JobRequest",
    "KeptSqliteEventLogStorage",
    "LaunchPlan",
    "LocalPipesClient",
    "MPILauncher",
    "ModuleEnvironment",
    "Needs",
    "NoEnvironment",
    "Pack",
    "Part",
    "Payload",
    "PixiEnvironment",
    "Place",
    "RayLauncher",
    "RayPortConfig",
    "RemotePath",
    "Requirements",
    "SSHConnectionResource",
    "SessionCluster",
    "SlurmAllocation",
    "SlurmAllocationEnded",
    "SlurmAllocationScope",
    "SlurmHetInvocation",
    "SlurmHetJobComponent",
    "SlurmMetric",
    "SlurmMetricsCallback",
    "SlurmMetricsContext",
    "SlurmPartitionsInvocation",
    "SlurmPathIOManager",
    "SlurmPipesClient",
    "SlurmQueueConfig",
    "SlurmResource",
    "SlurmResourcesComponent",
    "SlurmRetryPolicy",
    "SlurmRunAllocationConfig",
    "SlurmRunConfig",
    "SlurmScriptComponent",
    "SlurmSessionResource",
    "SlurmStepDrained",
    "SlurmStepExecutionResult",
    "SlurmWorkerAllocationConfig",
    "SparkLauncher",
    "Target",
    "TorchrunLauncher",
    "UvEnvironment",
    "__version__",
    "build_slurm_orphan_reconcile_sensor",
    "nodes_hook",
    "payload_command",
    "reconcile_orphaned_slurm_runs",
    "run_with_ray_reserve_topup",
    "threaded_executor",
    "wait_for_stable_ray_resources",
]


class _FormerModules:
    """Finds modules of dagster-slurm 1.22 that are not here; what is here, Python has found before."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """As `importlib.abc.MetaPathFinder`."""
        if not name.startswith(f"{__name__}."):
            return None
        return import_module(f"{__name__}.compat.paths").spec_of(name)  # type: ignore[no-any-return]


if not any(getattr(finder, "__name__", "") == _FormerModules.__name__ for finder in sys.meta_path):
    sys.meta_path.append(_FormerModules)


def __getattr__(name: str) -> Any:
    # Importing dagster takes a second or two; the command line and the pure rooms do without it.
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
