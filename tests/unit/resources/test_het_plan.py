"""Plans of `run_hetjob`: of each component, and of the job as a whole. Slurm's answers are scripted."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from tests.support.scripted import ScriptedTransport

from dagster_slurm import ComputeResource, JobPlan, SlurmResource
from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.pipes.step import PlanRefused, Step, StepStopped, dry_run
from dagster_slurm.resources.het_plan import het_plan
from dagster_slurm.resources.hetjob import components_of
from dagster_slurm.transport.base import CompletedCommand

FACTS = b"home /home/me\nuser me\nversion slurm 22.05.8\n"
TO_START = "sbatch: Job 17 to start at 2026-11-22T09:58:57+0000 using 3 processors on nodes n[1-3]\n"
OCEAN: dict[str, object] = {"num_nodes": 2, "cpus": 2, "time_limit": "01:00:00"}
WEATHER: dict[str, object] = {"mem": "200M", "time_limit": "00:30:00"}


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "model.sh"
    path.write_text("echo it\n")
    return path


def in_step(body: Callable[[Step], Any]) -> Any:
    """What a function makes of the step of two assets."""
    found = []

    @dg.multi_asset(specs=[dg.AssetSpec("ocean"), dg.AssetSpec("weather")])
    def coupled(context: dg.AssetExecutionContext) -> Any:
        found.append(body(Step.of(context)))
        yield from (dg.MaterializeResult(asset_key=key) for key in context.selected_asset_keys)

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([coupled], instance=instance)
    return found[0]


def planned(payload: Path, nodes: int = 4, *, ocean: dict[str, object] | None = None) -> JobPlan:
    def answer(script: str, args: Sequence[str], stdin: bytes) -> CompletedCommand:
        if "sinfo" in args:
            return CompletedCommand(f"compute*|{nodes}\n".encode(), b"", 0)
        if "sbatch" in args:
            return CompletedCommand(b"", TO_START.encode(), 0)
        return CompletedCommand(FACTS if "nodes" not in script else b"n1\n", b"", 0)

    cluster = SlurmCluster(ScriptedTransport(answer), remote_base="/base")
    compute = ComputeResource(mode="slurm-hetjob", slurm=SlurmResource(), max_node_hours=8)
    keys = frozenset({dg.AssetKey("ocean"), dg.AssetKey("weather")})
    asked = [("ocean", payload, ocean or OCEAN), ("weather", payload, WEATHER)]
    return in_step(lambda step: het_plan(components_of(compute, step, asked, {}, {}, keys), step, cluster, "cancel", 8))  # type: ignore[no-any-return]


def test_the_whole(payload: Path) -> None:
    plan = planned(payload)
    assert list(plan.components) == ["ocean", "weather"]
    assert plan.node_hours == 2.5
    assert plan.start is not None
    assert "#SBATCH hetjob" in plan.script
    assert "on_failure=cancel" in plan.script


def test_each_component(payload: Path) -> None:
    ocean, weather = planned(payload).components.values()
    assert (ocean.node_hours, weather.node_hours) == (2.0, 0.5)
    options = [{each.name: (each.value, each.source) for each in part.options} for part in (ocean, weather)]
    assert options[0]["--nodes"] == ("2", "call")
    assert options[1]["--mem"] == ("200M", "call")
    # Slurm reads these of the first alone.
    assert "--job-name" in options[0]
    assert "--job-name" not in options[1]
    assert ocean.directory.endswith("/0/elements/0")
    assert "component=1 components=2" in weather.script


@pytest.mark.parametrize(
    "line",
    [
        "- Runs as a heterogeneous Slurm job (components: 2), by scripted",
        "- Start: 2026-11-22 09:58:57 UTC, by Slurm's estimate, if it were submitted now",
        "- Cost: at most 2.5 node-hours, of 8 that are allowed",
        "## ocean: model.sh on scripted",
        "## weather: model.sh on scripted",
        "### Options of sbatch",
        "- Cost: at most 0.5 node-hours",
    ],
)
def test_as_text(payload: Path, line: str) -> None:
    assert line in str(planned(payload)).splitlines()


def test_the_scripts_stand_at_the_end(payload: Path) -> None:
    text = planned(payload).text(script=True)
    headings = [line for line in text.splitlines() if line.startswith("## Batch script")]
    assert headings == ["## Batch script", "## Batch script of ocean", "## Batch script of weather"]


def test_as_json(payload: Path) -> None:
    told = json.loads(json.dumps(planned(payload).as_json()))
    assert told["components"]["weather"]["node_hours"] == 0.5
    assert told["components"]["weather"]["uploads"][0]["missing_bytes"] == len("echo it\n")


def test_more_nodes_than_there_are(payload: Path) -> None:
    with pytest.raises(InvalidRequestError, match="ask for 3 nodes of the partition 'compute', which has 2"):
        planned(payload, nodes=2)


HERE = ComputeResource(mode="local")


def dry(payload: Path, names: Sequence[str], **arguments: Any) -> JobPlan:
    """Of a step of two assets on this machine."""

    @dg.multi_asset(specs=[dg.AssetSpec("ocean"), dg.AssetSpec("weather")], can_subset=True)
    def coupled(context: dg.AssetExecutionContext, compute: ComputeResource) -> Any:
        assets = [(name, payload, {"num_nodes": 2}) for name in names]
        yield from compute.run_hetjob(context, assets, **arguments).get_results()

    with dry_run(), pytest.raises(StepStopped) as stopped, dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([coupled], resources={"compute": HERE}, instance=instance)
    plan: JobPlan = stopped.value.plan
    return plan


def test_a_dry_run_on_this_machine(payload: Path) -> None:
    plan = dry(payload, ["ocean", "weather"], extra_env={"TOKEN": "s3cret"})
    assert "- Runs on this machine, as processes side by side (components: 2)" in str(plan).splitlines()
    assert [part.variables for part in plan.components.values()] == [("TOKEN",), ("TOKEN",)]
    text = plan.text(script=True)
    assert "## What is run of weather" in text
    assert "s3cret" not in text


def test_one_component_is_a_job_as_any_other(payload: Path) -> None:
    assert dry(payload, ["ocean"]).components == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"assets": []}, "run_hetjob has no assets"),
        ({"assets": [("lake", "model.sh", {})]}, "'lake' is no asset of the step"),
        ({"assets": [("ocean", "model.sh", {})], "on_failure": "ask"}, "on_failure is 'ask'"),
    ],
)
def test_what_would_be_refused(arguments: dict[str, Any], said: str) -> None:
    @dg.multi_asset(specs=[dg.AssetSpec("ocean"), dg.AssetSpec("weather")])
    def coupled(context: dg.AssetExecutionContext, compute: ComputeResource) -> Any:
        yield from compute.run_hetjob(context, **arguments).get_results()

    with dry_run(), pytest.raises(PlanRefused, match=said), dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([coupled], resources={"compute": HERE}, instance=instance)
