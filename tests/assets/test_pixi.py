"""Payloads in environments of a pixi project, on Slurm, packed and unpacked by stand-ins of the same formats."""

import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import files
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, PixiEnvironment
from dagster_slurm.sandbox import Sandbox
from tests.support.pixi import HARBOUR, WAVES, Channel, Conda, PixiProject, PyPI, environment_for_tools

from .conftest import asset_of, compute_log, failure_of, log_messages, run_asset

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240), pytest.mark.usefixtures("local_store")]

Make = Callable[..., ComputeResource]
Write = Callable[..., Path]
TIDES = Conda("tides", "1.0", 50_000)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PixiProject]:
    """A project with dagster-pipes, around the working directory."""
    for name, value in environment_for_tools(tmp_path).items():
        monkeypatch.setenv(name, value)
    channel = Channel(tmp_path / "channel")
    made = PixiProject(tmp_path / "coast", channel)
    pipes = pipes_wheel(made.directory / "wheels")
    made.lock([TIDES, WAVES, HARBOUR, PyPI("dagster-pipes", f"./wheels/{pipes.name}", "1.0")])
    (made.directory / "assets").mkdir()
    monkeypatch.chdir(made.directory / "assets")
    yield made
    channel.close()


def pipes_wheel(directory: Path) -> Path:
    """The dagster-pipes of this machine, as a wheel."""
    directory.mkdir(parents=True)
    path = directory / "dagster_pipes-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for each in files("dagster-pipes") or ():
            if each.suffix == ".py":
                wheel.write(str(each.locate()), str(each))
    return path


@pytest.fixture
def profile(sandbox: Sandbox) -> Iterator[Callable[[str], None]]:
    """Adds to what the user's shells on the cluster read; it is as before afterwards."""
    before = sandbox.run(["sh", "-c", "cat ~/.bashrc 2>/dev/null"]).stdout

    def write(text: str) -> None:
        sandbox.run(["sh", "-c", "cat >~/.bashrc"], input=f"{before}{text}\n")

    yield write
    sandbox.run(["sh", "-c", "cat >~/.bashrc; rm -rf ~/.local/lib ~/shadow"], input=before)


REPORTS = """
import os, sys
import tides
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    pipes.report_asset_materialization(metadata={"version": tides.__version__, "prefix": sys.prefix})
"""


def test_a_lock_that_is_found_by_itself(
    project: PixiProject, slurm: Make, instance: dg.DagsterInstance, payload: Write
) -> None:
    compute = slurm(pre_deployed_env_path=None)
    result = run_asset(asset_of(payload(REPORTS)), compute, instance)
    assert result.success
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["version"].value == "1.0"
    assert "/env-cache/" in str(event.materialization.metadata["prefix"].value)
    assert any(
        message.startswith("Installed the pixi environment default of coast")
        for message in log_messages(result, instance)
    )


def test_nothing_from_outside_gets_in(
    project: PixiProject,
    slurm: Make,
    sandbox: Sandbox,
    instance: dg.DagsterInstance,
    payload: Write,
    profile: Callable[[str], None],
) -> None:
    """A module in ~/.local, and a login with a PYTHONPATH and a conda; what `extra_env` says does get in."""
    shadows = 'for where in "$HOME/shadow" "$(python3 -m site --user-site)"; do mkdir -p "$where"; '
    shadows += 'echo "__version__ = \'of another\'" >"$where/tides.py"; done'
    assert sandbox.run(["sh", "-c", shadows]).returncode == 0
    profile('export PYTHONPATH="$HOME/shadow" CONDA_PREFIX=/opt/conda CONDA_DEFAULT_ENV=base')
    shows = (
        "import os, tides\nprint(tides.__version__, os.environ.get('CONDA_DEFAULT_ENV'), os.environ['CONDA_PREFIX'])\n"
    )
    compute = slurm(pre_deployed_env_path=None)
    result = run_asset(asset_of(payload(shows)), compute, instance)
    version, conda, prefix = compute_log(result, instance).split()
    assert (version, conda) == ("1.0", "None")
    assert "/env-cache/" in prefix
    wanted = asset_of(payload(shows), extra_env={"PYTHONPATH": f"{sandbox.home}/shadow"})
    assert compute_log(run_asset(wanted, compute, instance), instance).startswith("of another ")


def test_nor_into_a_deployed_one(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write, profile: Callable[[str], None]
) -> None:
    shadow = 'where=$(python3 -m site --user-site); mkdir -p "$where" "$HOME/shadow"; echo "raise SystemExit(9)" '
    shadow += '| tee "$where/dagster_pipes.py" >"$HOME/shadow/dagster_pipes.py"'
    assert sandbox.run(["sh", "-c", shadow]).returncode == 0
    profile('export PYTHONPATH="$HOME/shadow"')
    path = payload("import dagster_pipes\nprint('of the environment')\n")
    assert compute_log(run_asset(asset_of(path), slurm(), instance), instance) == "of the environment\n"


def test_metadata_names_the_command_and_the_variable_the_platform(
    project: PixiProject, slurm: Make, instance: dg.DagsterInstance, payload: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PACK_PLATFORM", "linux-aarch64")
    compute = slurm(pre_deployed_env_path=None)
    error, text = failure_of(run_asset(asset_of(payload("print(1)\n")), compute, instance))
    assert error == "InvalidRequestError"
    assert "pixi.lock has no packages of 'default' for linux-aarch64" in text
    monkeypatch.setenv("SLURM_PACK_PLATFORM", "linux-64")
    command = "pixi-pack -p {platform} --create-executable -o {output}"

    @dg.asset(metadata={"slurm_pack_cmd": command})
    def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        return compute.run(context, payload("import tides\nprint(tides.__version__)\n")).get_materialize_result()

    result = run_asset(measured, compute, instance)
    assert compute_log(result, instance) == "1.0\n"
    assert any(message.startswith("Running pixi-pack -p linux-64 ") for message in log_messages(result, instance))


def test_a_plan_has_the_packages_of_the_lock(
    project: PixiProject, slurm: Make, instance: dg.DagsterInstance, payload: Write
) -> None:
    compute = slurm(pre_deployed_env_path=None, environment=PixiEnvironment(project_dir=str(project.directory)))
    path = payload("import tides\nprint(tides.__version__)\n")
    (planned,) = [each for each in compute.plan(payload_path=path).uploads if each.what == "environment"]
    sizes = {each.name: each.size_bytes for each in planned.files}
    assert sizes[TIDES.filename] == (project.channel.directory / "noarch" / TIDES.filename).stat().st_size
    assert len(sizes) == 5 and not any(each.is_there for each in planned.files)
    assert run_asset(asset_of(path), compute, instance).success
    (again,) = [
        each for each in compute.plan(payload_path=path, force_env_push=True).uploads if each.what == "environment"
    ]
    assert all(each.is_there for each in again.files)
