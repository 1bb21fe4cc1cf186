"""A launcher in another: Ray and the payload in a container on every node, which a stand-in for Apptainer enters."""

import ast
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, ModuleEnvironment, RayLauncher
from dagster_slurm.sandbox import Sandbox
from tests.assets.conftest import asset_of, compute_log, failure_of, run_asset
from tests.docs.markdown import ROOT, blocks_of
from tests.support.files import let_everybody_in

from .conftest import THREE, left_behind

pytestmark = [pytest.mark.cluster, pytest.mark.all_faults, pytest.mark.timeout(240)]
Make = Callable[..., ComputeResource]
Write = Callable[..., Path]

STAND_IN = ROOT / "tests" / "stand_ins" / "apptainer.sh"
WHERE = """
import os, time, ray
ray.init(log_to_driver=False)

@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def where(number):
    time.sleep(0.3)
    return os.environ["SLURMD_NODENAME"], os.environ.get("APPTAINER_CONTAINER", "outside"), number

found = ray.get([where.remote(number) for number in range(24)])
print("nodes", *sorted(set(node for node, _, _ in found)))
print("tasks in", *sorted(set(image for _, image, _ in found)))
print("payload in", os.environ.get("APPTAINER_CONTAINER", "outside"))
print("sum", sum(number for _, _, number in found), flush=True)
"""


def extension() -> str:
    """The class of the page on launchers, as a user would write it."""
    (block,) = [each for each in blocks_of(ROOT / "docs" / "launchers.md") if "class ContainedRay" in each.text]
    parts = [
        each for each in ast.parse(block.text).body if isinstance(each, ast.Import | ast.ImportFrom | ast.ClassDef)
    ]
    return "\n".join(ast.unparse(each) for each in parts if getattr(each, "module", "") != "project")


@pytest.fixture
def contained() -> Callable[[str], RayLauncher]:
    """Makes the launcher with an image."""
    text = extension()
    assert len(text.splitlines()) < 80
    names: dict[str, type[RayLauncher]] = {}
    exec(compile(text, "launchers.md", "exec", dont_inherit=True), names)
    made = names["ContainedRayLauncher"]
    return lambda image: made(image=image)


@pytest.fixture
def compute(slurm: Make, tmp_path: Path) -> ComputeResource:
    """Nodes that have Apptainer, and a Python without Ray outside of it."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "apptainer").write_text(STAND_IN.read_text())
    (programs / "apptainer").chmod(0o755)
    let_everybody_in(programs)
    environment = ModuleEnvironment(setup_commands=[f"PATH={programs}:$PATH"], python="/usr/bin/python3")
    return slurm(pre_deployed_env_path=None, environment=environment)


def test_ray_and_the_payload_are_inside_on_every_node(
    compute: ComputeResource,
    contained: Callable[[str], RayLauncher],
    with_ray: str,
    payload: Write,
    instance: dg.DagsterInstance,
    sandbox: Sandbox,
) -> None:
    got = run_asset(asset_of(payload(WHERE), launcher=contained(with_ray), extra_slurm_opts=THREE), compute, instance)
    assert got.success, failure_of(got)
    said = compute_log(got, instance).splitlines()
    assert said[-4:] == ["nodes n1 n2 n3", f"tasks in {with_ray}", f"payload in {with_ray}", "sum 276"]
    assert left_behind(sandbox) == []


def test_an_image_that_is_not_there_is_named(
    compute: ComputeResource, contained: Callable[[str], RayLauncher], payload: Write, instance: dg.DagsterInstance
) -> None:
    launcher = contained("/images/none.sif")
    got = run_asset(asset_of(payload(WHERE), launcher=launcher, extra_slurm_opts=THREE), compute, instance)
    assert "could not open image /images/none.sif" in failure_of(got)[1]
