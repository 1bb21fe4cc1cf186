"""Paths of the cluster as people write them: the login says where they lead, once, and that is used and shown."""

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, RemotePath
from dagster_slurm.sandbox import Sandbox

from .conftest import asset_of, compute_log, failure_of, run_asset

pytestmark = pytest.mark.cluster

Make = Callable[..., ComputeResource]
Write = Callable[..., Path]


@pytest.fixture
def place(sandbox: Sandbox, environment_path: str, tmp_path: Path) -> Iterator[str]:
    """A directory of the login's home, by its name, with an environment, a payload and some data."""
    name = f"paths-{tmp_path.name}"
    lines = [
        f"mkdir -p ~/{name}/scripts",
        f"ln -s {shlex.quote(environment_path)} ~/{name}/analysis",
        f"printf 'echo there; cat waves; python3 -c \"import dagster_pipes\"\\n' >~/{name}/scripts/there.sh",
        f"echo three waves >~/{name}/waves.txt",
        f"printf 'export WORK=~/{name}\\n' >~/.bash_profile",
    ]
    sandbox.run(["sh", "-c", " && ".join(lines)])
    yield name
    sandbox.run(["sh", "-c", f"rm -rf ~/{name} ~/.bash_profile"])


@pytest.mark.parametrize("written", ["{name}", "~/{name}", "$HOME/{name}", "$WORK"])
def test_an_environment_a_payload_an_input_and_the_runs(
    slurm: Make,
    sandbox: Sandbox,
    instance: dg.DagsterInstance,
    payload: Write,
    place: str,
    written: str,
) -> None:
    at = written.format(name=place)
    asset = asset_of(
        payload("exit 9\n", name="there.sh"),
        remote_payload_path=f"{at}/scripts/there.sh",
        inputs={"waves": RemotePath(f"{at}/waves.txt")},
    )
    compute = slurm(pre_deployed_env_path=f"{at}/analysis", remote_base=f"{at}/runs", debug_mode=True)
    result = run_asset(asset, compute, instance)
    assert result.success, failure_of(result)
    assert compute_log(result, instance) == "there\nthree waves\n"
    events = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    (submitted,) = [each for each in events if each.user_message.startswith("Submitted Slurm job ")]
    home = sandbox.home / place
    assert submitted.user_message.endswith(f" in the environment {home}/analysis")
    rows = submitted.get_dagster_event().engine_event_data.metadata
    assert str(rows["directory"].value).startswith(f"{home}/runs/runs/")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("analysis", "The environment HOME/analysis does not exist"),
        ("$NOTHING/analysis", "pre_deployed_env_path is '$NOTHING/analysis', and the login has no variable NOTHING"),
    ],
)
def test_one_that_leads_nowhere_is_told_before_anything_is_submitted(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write, path: str, line: str
) -> None:
    result = run_asset(asset_of(payload("true\n", name="x.sh")), slurm(pre_deployed_env_path=path), instance)
    kind, text = failure_of(result)
    assert text.partition(f"{kind}: ")[2].startswith(line.replace("HOME", str(sandbox.home)))
