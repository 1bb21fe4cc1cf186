"""`dagster-slurm env`: deployed, listed, verified and pruned, on the sandbox."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, UvEnvironment
from dagster_slurm.cli import main
from dagster_slurm.sandbox import Sandbox
from tests.support.instances import empty_instance
from tests.support.pixi import Channel, Conda, PixiProject, environment_for_tools

from ..environments.projects import Package, Project
from ..support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

Env = Callable[..., Result]


@pytest.fixture
def base(sandbox: Sandbox, local_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`remote_base`, as this machine sees it."""
    for name, value in sandbox.env().items():
        monkeypatch.setenv(name, value)
    path = sandbox.home / "test-runs" / f"environments-{time.monotonic_ns()}"
    monkeypatch.setenv("SLURM_REMOTE_BASE", str(path))
    return path


@pytest.fixture
def env(base: Path) -> Env:
    def run(*argv: str, exit_code: int = 0) -> Result:
        done = CliRunner().invoke(main, ["env", *argv], catch_exceptions=False)
        assert done.exit_code == exit_code, done.output
        return done

    return run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    return Project(directory, [Package("waves"), Package("radar")], {"gpu": ["radar"]}).write()


def aged(base: Path, path: str, sandbox: Sandbox) -> None:
    assert sandbox.run(["touch", "-d", "40 days ago", f"{path}/.complete"]).returncode == 0


def test_deployed_listed_verified(env: Env, project: Path, base: Path, sandbox: Sandbox) -> None:
    path = env("deploy", "--project", str(project), "--python", "/usr/bin/python3").stdout.strip()
    assert sandbox.run([f"{path}/env/bin/waves"]).stdout == "waves 1.0\n"
    deployed = json.loads(env("deploy", "--project", str(project), "--name", "gpu", "--json").stdout)
    assert deployed["title"] == "the uv project tides (gpu)"
    listed = json.loads(env("list", "--json").stdout)
    assert {each["path"] for each in listed["environments"]} == {path, deployed["path"]}
    assert all(each["size_bytes"] > 0 and each["standing"] == "deployed" for each in listed["environments"])
    assert env("verify").stdout.count(": whole") == 2
    (module,) = Path(path).glob("env/lib/python*/site-packages/waves/__init__.py")
    assert sandbox.run(["rm", str(module)]).returncode == 0
    said = env("verify", Path(path).name, exit_code=1).stdout
    assert "waves/__init__.py" in said


def test_packages_of_pixi_are_pruned_with_the_last_environment_that_has_them(
    env: Env, base: Path, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment_for_tools(tmp_path).items():
        monkeypatch.setenv(name, value)
    channel = Channel(tmp_path / "channel")
    coast = PixiProject(tmp_path / "coast", channel)
    paths = []
    for name in ("tides", "moon"):
        coast.lock([Conda(name, "1.0", 1000)])
        paths.append(env("deploy", "--project", str(coast.directory)).stdout.strip())
    channel.close()
    assert env("verify").stdout.count(": whole") == 2

    def extracted() -> set[str]:
        sandbox.run(["sh", "-c", f"touch -d '2 days ago' {base}/env-cache/unpacked/*"])
        there = sandbox.run(["find", f"{base}/env-cache/unpacked", "-mindepth", "1", "-maxdepth", "1", "-type", "d"])
        return {Path(line).name.partition("-")[0] for line in there.stdout.splitlines()}

    assert extracted() == {"python", "tides", "moon"}
    aged(base, paths[0], sandbox)
    assert "Removed: 1 of 1 of 2" in env("prune", "--yes", "--deployed").stdout
    assert extracted() == {"python", "moon"}
    aged(base, paths[1], sandbox)
    env("prune", "--yes", "--deployed")
    assert extracted() == set()


def test_no_lock_and_no_such_entry(env: Env, tmp_path: Path) -> None:
    assert "neither a uv.lock nor a pixi.lock" in env("deploy", "--project", str(tmp_path), exit_code=1).output
    assert "There is no environment nowhere" in env("verify", "nowhere", exit_code=1).output


def test_pruned_but_not_while_a_job_runs_in_it(
    env: Env, project: Path, base: Path, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = tmp_path / "payload.sh"
    payload.write_text(
        f"touch {base}/running; while ! [ -e {base}/go ]; do sleep 0.2; done; python -c 'import waves'\n"
    )

    @dg.asset
    def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        return compute.run(context, payload).get_materialize_result()

    queue = SlurmQueueConfig(partition="compute", mem="100M", cpus=1, time_limit="00:05:00")
    compute = ComputeResource(
        mode="slurm",
        slurm=SlurmResource(ssh=SlurmResource.from_env().ssh, queue=queue, remote_base=str(base)),
        environment=UvEnvironment(project_dir=str(project), python="/usr/bin/python3"),
    )
    results: list[dg.ExecuteInProcessResult] = []

    def run() -> None:
        with empty_instance() as instance:
            results.append(dg.materialize([measured], resources={"compute": compute}, instance=instance))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        eventually(lambda: (base / "running").exists() or None, "the job runs", seconds=60)
        (found,) = json.loads(env("list", "--json").stdout)["environments"]
        aged(base, found["path"], sandbox)
        said = env("prune", "--yes").stdout
        assert "a job runs in it, or may" in said
    finally:
        (base / "go").touch()
        thread.join()
    assert results[0].success
    assert "it was not used for 40 days" in env("prune").stdout
    assert "Removed: 1 of 1 of 1" in env("prune", "--yes").stdout
    assert json.loads(env("list", "--json").stdout)["environments"] == []
