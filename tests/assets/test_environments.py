"""Payloads in environments of their own: which one a call gets, and that it runs in it. On Slurm."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, ContainerEnvironment, ModuleEnvironment, NoEnvironment, UvEnvironment
from dagster_slurm.sandbox import Sandbox
from tests.support.instances import empty_instance

from ..environments.projects import Package, Project
from .conftest import asset_of, compute_log, failure_of, log_messages, run_asset

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240), pytest.mark.usefixtures("local_store")]

Make = Callable[..., ComputeResource]
Write = Callable[..., Path]
PYTHON = "/usr/bin/python3"
UV = Path(sys.executable).with_name("uv")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    directory = tmp_path / "project"
    directory.mkdir()
    return Project(directory, [Package("waves"), Package("radar")], {"gpu": ["radar"]})


@pytest.fixture
def uv(slurm: Make, project: Project) -> Callable[..., ComputeResource]:
    """Makes compute resources with the project's environment."""

    def make(**options: Any) -> ComputeResource:
        environment = UvEnvironment(project_dir=str(project.write()), python=PYTHON)
        return slurm(**{"pre_deployed_env_path": None, "environment": environment, **options})

    return make


SAYS = """
import importlib.util, os
print(os.environ.get("NAME"), "with radar" if importlib.util.find_spec("radar") else "without")
"""


def test_it_runs_in_the_projects_environment(uv: Make, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload("import sys, waves\nprint(waves.__version__, sys.prefix)\n")
    first = run_asset(asset_of(path), uv(), instance)
    assert first.success
    version, prefix = compute_log(first, instance).split()
    assert version == "1.0"
    assert "/env-cache/" in prefix
    assert any(message.startswith("Installed the uv project tides") for message in log_messages(first, instance))
    with empty_instance() as another:
        second = run_asset(asset_of(path), uv(), another)
        assert compute_log(second, another) == compute_log(first, instance)
        assert not [message for message in log_messages(second, another) if message.startswith("Install")]


def test_two_environments_in_one_run(uv: Make, instance: dg.DagsterInstance, payload: Write, project: Project) -> None:
    path = payload(SAYS)
    gpu = UvEnvironment(project_dir=str(project.directory), python=PYTHON, groups=["gpu"])

    def asset(name: str, metadata: dict[str, Any]) -> dg.AssetsDefinition:
        @dg.asset(name=name, metadata=metadata)
        def made(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
            run = compute.run(context, path, extra_env={"NAME": name})
            return run.get_materialize_result()

        return made

    assets = [
        asset("on_cpu", {}),
        asset("on_gpu", {"slurm_environment": gpu}),
        asset("by_name", {"slurm_environment_name": "gpu"}),
    ]
    result = dg.materialize(assets, resources={"compute": uv()}, instance=instance, raise_on_error=False)
    assert result.success
    # One log for all steps: they share a process.
    said = sorted(compute_log(result, instance).splitlines())
    assert said == ["by_name with radar", "on_cpu without", "on_gpu with radar"]


MEMBER = """[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.8"
dependencies = [{needs}]
[dependency-groups]
Night_Shift = ["stars"]
[tool.uv.sources]
{sources}
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
"""
IN_WORKSPACE = "{0} = {{ workspace = true }}"
BY_PATH = '{0} = {{ path = "../../{0}" }}'


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace whose root and members need each other, and one that is no member, by its path; locked by uv."""
    needs = {
        "": ('"coast"', IN_WORKSPACE.format("coast")),
        "packages/coast": ('"deep"', f"{IN_WORKSPACE.format('deep')}\n{BY_PATH.format('stars')}"),
        "packages/deep": ('"side"', f"{BY_PATH.format('side')}\n{BY_PATH.format('stars')}"),
        "side": ("", BY_PATH.format("stars").replace("../../", "../")),
        "stars": ("", ""),
    }
    root = tmp_path / "space"
    for where, (needed, sources) in needs.items():
        name = Path(where).name or "atlas"
        (root / where / name).mkdir(parents=True)
        (root / where / name / "__init__.py").write_text(f"told = {name!r}\n")
        text = MEMBER.format(name=name, needs=needed, sources=sources)
        if name in ("atlas", "side", "stars"):
            text = text.replace('Night_Shift = ["stars"]', "")
        if name == "atlas":
            text = text.replace("[build-system]", '[tool.uv.workspace]\nmembers = ["packages/*"]\n[build-system]')
        (root / where / "pyproject.toml").write_text(text)
    subprocess.run([UV, "lock", "--offline", "--quiet"], cwd=root, check=True)
    return root


FINDS = """
import importlib.util, os
names = ("atlas", "coast", "deep", "side", "stars")
print("it finds", *(name for name in names if importlib.util.find_spec(name)), os.path.dirname(os.sys.prefix) != "/")
"""


@pytest.mark.parametrize(
    ("of", "name", "found"),
    [
        ("", None, "atlas coast deep side"),
        ("packages/coast", "night-shift", "coast deep side stars"),
    ],
)
def test_a_workspace(
    slurm: Make, instance: dg.DagsterInstance, payload: Write, workspace: Path, of: str, name: str | None, found: str
) -> None:
    """A member had no lock of its own, and was refused; a group with capitals was known in no spelling."""
    environment = UvEnvironment(project_dir=str(workspace / of), python=PYTHON)
    compute = slurm(pre_deployed_env_path=None, environment=environment)
    result = run_asset(asset_of(payload(FINDS), environment_name=name), compute, instance)
    assert result.success
    assert f"it finds {found} True" in compute_log(result, instance)


def test_a_shell_payload_needs_no_environment(
    slurm: Make, instance: dg.DagsterInstance, tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.write())
    script = tmp_path / "say.sh"
    script.write_text("#!/bin/sh\necho it runs\n")
    result = run_asset(asset_of(script), slurm(pre_deployed_env_path=None, environment=NoEnvironment()), instance)
    assert result.success
    assert "it runs" in compute_log(result, instance)
    assert not [message for message in log_messages(result, instance) if "env-cache" in message or "uv" in message]


def test_an_unknown_name_is_refused(uv: Make, instance: dg.DagsterInstance, payload: Write) -> None:
    result = run_asset(asset_of(payload(SAYS), environment_name="tpu"), uv(), instance)
    kind, message = failure_of(result)
    assert kind == "InvalidRequestError"
    assert "neither a dependency group nor an extra 'tpu'" in message
    assert "It has: gpu." in message


def test_two_at_once_are_refused(slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
    both = slurm(environment=ModuleEnvironment(setup_commands=["true"]))
    kind, _ = failure_of(run_asset(asset_of(payload(SAYS)), both, instance))
    assert kind == "ConfigurationError"


def test_what_the_site_provides(slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
    environment = ModuleEnvironment(setup_commands=["export TIDES_FROM=the-site"], python=PYTHON)
    path = payload("import os, sys\nprint(os.environ['TIDES_FROM'], sys.executable)\n")
    result = run_asset(asset_of(path), slurm(pre_deployed_env_path=None, environment=environment), instance)
    assert compute_log(result, instance).split()[0] == "the-site"


def test_a_module_that_is_not_there(slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
    environment = ModuleEnvironment(setup_commands=["module load python/3.99"])
    result = run_asset(asset_of(payload(SAYS)), slurm(pre_deployed_env_path=None, environment=environment), instance)
    kind, message = failure_of(result)
    assert kind == "EnvironmentBuildError"
    assert "module" in message


def test_an_image_that_is_not_there(slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
    environment = ContainerEnvironment(image="/nowhere/tides.sif")
    result = run_asset(asset_of(payload(SAYS)), slurm(pre_deployed_env_path=None, environment=environment), instance)
    kind, message = failure_of(result)
    assert kind == "EnvironmentNotFoundError"
    assert "/nowhere/tides.sif" in message


def test_payloads_that_are_deployed_with_their_environment(
    slurm: Make, instance: dg.DagsterInstance, sandbox: Sandbox, environment_path: str, tmp_path: Path
) -> None:
    deployed = f"{sandbox.home}/{tmp_path.name}"
    shutil.copytree(environment_path, deployed, symlinks=True)
    scripts = Path(deployed, "scripts")
    scripts.mkdir()
    (scripts / "measure.py").write_text("print('deployed')\n")
    compute = slurm(pre_deployed_env_path=deployed, default_skip_payload_upload=True)
    result = run_asset(asset_of("measure.py"), compute, instance)
    assert compute_log(result, instance) == "deployed\n"


def test_a_project_that_uv_has_locked(
    slurm: Make, instance: dg.DagsterInstance, payload: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default: a project with a `uv.lock` around the working directory; packages from the index."""
    directory = tmp_path / "locked"
    directory.mkdir()
    (directory / "pyproject.toml").write_text(
        '[project]\nname = "locked"\nversion = "1"\nrequires-python = ">=3.10"\n'
        'dependencies = ["numpy", "python-dateutil", "dagster-pipes"]\n'
    )
    subprocess.run([UV, "lock", "--quiet"], cwd=directory, check=True)
    monkeypatch.chdir(directory)
    path = payload(
        "import dateutil, numpy, socket\nfrom dagster_pipes import open_dagster_pipes\n"
        "try:\n    socket.create_connection(('example.org', 443), 2)\n"
        "except OSError:\n    pass\nelse:\n    raise SystemExit('the node has a network')\n"
        "with open_dagster_pipes() as pipes:\n"
        "    pipes.report_asset_materialization(metadata={'sum': int(numpy.arange(5).sum())})\n"
    )
    result = run_asset(asset_of(path), slurm(pre_deployed_env_path=None), instance)
    assert result.success
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["sum"].value == 10


def test_built_on_the_login_node(
    slurm: Make, instance: dg.DagsterInstance, payload: Write, project: Project, sandbox: Sandbox
) -> None:
    """With the uv that is found there."""
    project.packages, project.groups = [Package("waves")], {}
    directory = project.write()
    (directory / "pyproject.toml").write_text(
        '[project]\nname = "tides"\nversion = "0.1.0"\nrequires-python = ">=3.8"\ndependencies = ["waves"]\n'
        '[tool.uv]\nno-index = true\nfind-links = ["wheels"]\n'
    )
    subprocess.run([UV, "lock", "--quiet", "--offline"], cwd=directory, check=True)
    tools = sandbox.home / "tools"
    tools.mkdir(exist_ok=True)
    shutil.copy(UV, tools / "uv")
    environment = UvEnvironment(
        project_dir=str(directory), python=PYTHON, build_on_remote=True, setup_commands=[f"PATH=$PATH:{tools}"]
    )
    path = payload("import sys, waves\nprint(waves.__version__)\n")
    result = run_asset(asset_of(path), slurm(pre_deployed_env_path=None, environment=environment), instance)
    assert compute_log(result, instance) == "1.0\n"
