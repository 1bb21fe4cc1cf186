"""Every name and module path of dagster-slurm 1.22 can be imported; what has no counterpart is refused at first use."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import dagster_slurm
from dagster_slurm.compat.paths import PATHS, spec_of
from dagster_slurm.compat.refused import PAGE, Refused, refusal
from dagster_slurm.errors import ConfigurationError

NAMES = """
    ComputeResource SlurmRunConfig SlurmResource SlurmQueueConfig SSHConnectionResource SlurmSessionResource
    SlurmAllocation SlurmAllocationScope SlurmStepExecutionResult SlurmStepDrained SlurmAllocationEnded
    SlurmRunAllocationConfig SlurmWorkerAllocationConfig BashLauncher RayLauncher RayPortConfig ComputeLauncher
    SparkLauncher LocalPipesClient SlurmPipesClient SlurmMetric SlurmMetricsCallback SlurmMetricsContext
    run_with_ray_reserve_topup wait_for_stable_ray_resources build_slurm_orphan_reconcile_sensor
    reconcile_orphaned_slurm_runs
"""
EXPORTED = NAMES.split()
# Module, and a name that its users import from it.
IMPORTED = [
    ("config.environment", "ExecutionMode"),
    ("config.environment", "Environment"),
    ("config.runtime", "anything"),
    ("resources", "ComputeResource"),
    ("resources", "SlurmResource"),
    ("resources", "SSHConnectionResource"),
    ("resources", "SlurmQueueConfig"),
    ("resources", "SlurmSessionResource"),
    ("resources.compute", "ComputeResource"),
    ("resources.session", "SlurmSessionResource"),
    ("resources.slurm", "SlurmResource"),
    ("resources.ssh", "SSHConnectionResource"),
    ("launchers", "BashLauncher"),
    ("launchers", "ComputeLauncher"),
    ("launchers", "RayLauncher"),
    ("launchers", "SparkLauncher"),
    ("launchers.base", "ComputeLauncher"),
    ("launchers.base", "ExecutionPlan"),
    ("launchers.ray", "RayLauncher"),
    ("launchers.script", "BashLauncher"),
    ("launchers.spark", "SparkLauncher"),
    ("ray", "wait_for_stable_ray_resources"),
    ("ray", "run_with_ray_reserve_topup"),
    ("helpers.metrics", "SlurmMetricsContext"),
    ("helpers.ssh_pool", "SSHConnectionPool"),
    ("helpers.message_readers", "SSHMessageReader"),
    ("helpers.env_packaging", "pack_environment_with_pixi"),
    ("helpers.ssh_helpers", "anything"),
    ("pipes_clients", "SlurmPipesClient"),
    ("pipes_clients.slurm_pipes_client", "SlurmPipesClient"),
    ("pipes_clients.local_pipes_client", "LocalPipesClient"),
    ("runners.local_runner", "LocalRunner"),
    ("managers.hetjob", "HetJobManager"),
    ("auth.step_oidc", "StepOIDCAuthProvider"),
    ("auth.authentik", "AuthentikAuthProvider"),
    ("sensors", "build_slurm_orphan_reconcile_sensor"),
    ("sensors", "reconcile_orphaned_slurm_runs"),
]
PAGE_TEXT = (Path(__file__).parents[3] / PAGE).read_text("utf-8")
HEADINGS = {line.lstrip("# ").lower().replace(" ", "-") for line in PAGE_TEXT.splitlines() if line.startswith("##")}


def test_all_its_names_are_exported() -> None:
    assert len(EXPORTED) == 27
    assert set(EXPORTED) <= set(dagster_slurm.__all__)
    for name in EXPORTED:
        assert getattr(dagster_slurm, name) is not None


@pytest.mark.parametrize(("path", "name"), IMPORTED)
def test_each_path_has_its_names(path: str, name: str) -> None:
    found = getattr(import_module(f"dagster_slurm.{path}"), name)
    if name in PATHS.get(path, dagster_slurm.__all__):
        assert found is getattr(dagster_slurm, name)
    else:
        assert isinstance(found, Refused)


@pytest.mark.parametrize("path", PATHS)
def test_a_former_module_has_public_names_alone(path: str) -> None:
    module = import_module(f"dagster_slurm.{path}")
    assert set(module.__all__) <= set(dagster_slurm.__all__)
    with pytest.raises(AttributeError):
        _ = module._private


@pytest.mark.parametrize("path", ["nonsense", "config.nonsense", "resources.nonsense", "launchers.BashLauncher"])
def test_what_never_was_is_not_found(path: str) -> None:
    assert spec_of(f"dagster_slurm.{path}") is None
    with pytest.raises(ModuleNotFoundError):
        import_module(f"dagster_slurm.{path}")


@pytest.mark.parametrize("package", ["resources", "launchers"])
def test_our_packages_have_no_other_names(package: str) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = import_module(f"dagster_slurm.{package}").nonsense


STUBS = [name for name in EXPORTED if isinstance(getattr(dagster_slurm, name), Refused)]
FUNCTIONS = ["run_with_ray_reserve_topup", "wait_for_stable_ray_resources"]


def derived(found: Any) -> None:
    type("Own", (found,), {})


USES: list[Callable[[Any], object]] = [lambda found: found(), lambda found: found(1, name=2), derived]
USES += [lambda found: found.of_something]


@pytest.mark.parametrize("name", STUBS)
@pytest.mark.parametrize("use", USES)
def test_what_has_no_counterpart_is_refused_at_first_use(name: str, use: Callable[[Any], object]) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} of dagster-slurm 1.22 has no counterpart here") as refused:
        use(getattr(dagster_slurm, name))
    assert f"See {PAGE}#" in str(refused.value.hint)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_payloads_are_refused_when_they_are_called(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} of dagster-slurm 1.22"):
        getattr(dagster_slurm, name)(num_cpus=4)


def test_an_exception_can_stand_in_except_and_an_annotation() -> None:
    def step(allocation: dagster_slurm.SlurmAllocation | None = None) -> int:
        try:
            return 1 // len([] if allocation is None else [allocation])
        except (dagster_slurm.SlurmStepDrained, dagster_slurm.SlurmAllocationEnded):
            return 2
        except ZeroDivisionError:
            return 3

    assert step() == 3


@pytest.mark.parametrize("name", [*STUBS, *FUNCTIONS, "ExecutionPlan", "StepOIDCAuthProvider", "Whatever"])
def test_each_refusal_names_an_anchor_of_the_page(name: str) -> None:
    hint = str(refusal(name).hint)
    anchor = hint.rpartition("#")[2].rstrip(".")
    assert anchor in HEADINGS


def test_they_cost_nothing_until_they_are_asked_for() -> None:
    program = "import sys, dagster_slurm, dagster_slurm.slurm.request; print([n for n in sys.modules if 'compat' in n])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
