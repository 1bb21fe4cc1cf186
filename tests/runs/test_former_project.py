"""A project as it is written for dagster-slurm 1.22, by facts about its names and rules, loads and runs unchanged."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.cli import main
from dagster_slurm.sandbox import Sandbox
from tests.support.environments import copied_environment
from tests.support.instances import empty_instance
from tests.support.waiting import eventually

DEFINITIONS = """
import os
from pathlib import Path

import dagster as dg
from dagster_slurm import (
    BashLauncher, ComputeResource, RayLauncher, RayPortConfig, SlurmAllocation, SlurmAllocationScope, SlurmMetric,
    SlurmMetricsContext, SlurmQueueConfig, SlurmResource, SlurmRunAllocationConfig, SlurmRunConfig, SlurmStepDrained,
    SparkLauncher, SSHConnectionResource, build_slurm_orphan_reconcile_sensor,
)
from dagster_slurm.config.environment import ExecutionMode
from dagster_slurm.helpers.metrics import SlurmMetricsCallback
from dagster_slurm.launchers.base import ComputeLauncher
from dagster_slurm.resources import SSHConnectionResource as TheSame
from dagster_slurm.resources.session import SlurmSessionResource

HERE = Path(__file__).parent
MODE = ExecutionMode(os.environ.get("PROJECT_MODE", "local"))


class TopicConfig(SlurmRunConfig):
    topic: str = "tides"


def disk(m: SlurmMetricsContext) -> dict:
    return {"home": m.ssh_pool.run("echo $HOME").strip(), "doubled": m.default_metrics["slurm_job_id"] + m.job_id}


@dg.asset
def numbers(context: dg.AssetExecutionContext, compute: ComputeResource, config: TopicConfig):
    run = compute.run(
        context=context,
        payload_path=str(HERE / "count.py"),
        extra_env={"TOPIC": config.topic, "COUNT": 3},
        extras={"rows": 3},
        extra_files=[str(HERE / "beside.txt")],
        config=config,
        poll_timeout=600,
        defer_cleanup=False,
        resource_requirements={"cpus": 1},
        slurm_metrics=[SlurmMetric.CPU_EFFICIENCY, SlurmMetric.MAX_MEMORY],
        metrics_collector=disk,
    )
    yield from run.get_results()


@dg.multi_asset(specs=[dg.AssetSpec("left", deps=[numbers]), dg.AssetSpec("right", deps=[numbers])])
def both(context: dg.AssetExecutionContext, compute: ComputeResource):
    try:
        yield from compute.run(context, str(HERE / "both.py"), BashLauncher()).get_results()
    except SlurmStepDrained:
        raise


@dg.asset_check(asset=numbers)
def is_right(context: dg.AssetCheckExecutionContext, compute: ComputeResource):
    run = compute.run(context=context, payload_path=str(HERE / "check.py"), force_env_push=False)
    return run.get_asset_check_result()


@dg.asset(deps=[numbers], metadata={"slurm": {"comment": "by the asset"}})
def by_script(context: dg.AssetExecutionContext, compute: ComputeResource):
    return compute.run(context=context, payload_path=HERE / "job.sh").get_materialize_result()


slurm = SlurmResource(
    ssh=SSHConnectionResource.from_env() if MODE is not ExecutionMode.LOCAL else None,
    queue=SlurmQueueConfig(partition="compute", num_nodes=1, time_limit="00:05:00", cpus=1, mem="200M"),
    remote_base=os.environ.get("PROJECT_BASE"),
    status_poll_backoff_factor=1.5,
)
compute = ComputeResource(
    mode=MODE,
    slurm=slurm,
    session=None,
    allocation_scope=SlurmAllocationScope(os.environ.get("SLURM_ALLOCATION_SCOPE", "asset")),
    run_allocation=SlurmRunAllocationConfig(
        num_nodes=1, cpus_per_task=2, mem="500M", time_limit="00:10:00", cleanup_policy="after_run"
    ),
    default_launcher=BashLauncher(),
    remote_pack_timeout=600,
    enable_cluster_reuse=False,
    cluster_reuse_tolerance=0.2,
    default_extra_files=[str(HERE / "metaxy.toml")],
    pre_deployed_env_path=os.environ.get("PROJECT_ENVIRONMENT"),
    debug_mode=False,
    cleanup_on_failure=True,
)
assert compute.mode.value in ("local", "slurm")
defs = dg.Definitions(
    assets=[numbers, both, by_script],
    asset_checks=[is_right],
    resources={"compute": compute},
    sensors=[build_slurm_orphan_reconcile_sensor(slurm, target=dg.AssetSelection.all())],
)
"""
PIPES = "from dagster_pipes import PipesContext, open_dagster_pipes\n"
FILES = {
    "defs.py": DEFINITIONS,
    "count.py": PIPES
    + """
import os, pathlib
with open_dagster_pipes() as pipes:
    beside = pathlib.Path("beside.txt").read_text() + pathlib.Path("metaxy.toml").read_text()
    pipes.report_asset_materialization(
        metadata={"rows": pipes.get_extra("rows"), "topic": os.environ["TOPIC"] + os.environ["COUNT"], "beside": beside}
    )
""",
    "both.py": PIPES
    + """
with open_dagster_pipes() as pipes:
    for key in ("left", "right"):
        pipes.report_asset_materialization(asset_key=key, metadata={"is": key})
""",
    "check.py": PIPES
    + """
with open_dagster_pipes() as pipes:
    pipes.report_asset_check(check_name="is_right", passed=True, asset_key="numbers")
""",
    "job.sh": "#!/bin/bash\n#SBATCH -J mine --output=%j.log\n#SBATCH --cpus-per-task=2\n##SBATCH -p none\n"
    'echo "with ${SLURM_CPUS_PER_TASK:-no} CPUs and $(cat metaxy.toml)"\n',
    "beside.txt": "beside ",
    "metaxy.toml": "metaxy",
}


def load(directory: Path) -> ModuleType:
    for name, text in FILES.items():
        (directory / name).write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("former_project", directory / "defs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(project: ModuleType) -> tuple[dict[str, dict[str, Any]], str]:
    """The metadata of its assets, and the run's log."""
    defs: dg.Definitions = project.defs
    dg.Definitions.validate_loadable(defs)
    with empty_instance() as instance:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
        assert result.success
        log = "\n".join(entry.message for entry in instance.all_logs(result.run_id))
    (check,) = result.get_asset_check_evaluations()
    assert check.passed
    made = {
        each.asset_key.to_user_string(): {name: value.value for name, value in each.metadata.items()}
        for each in (event.event_specific_data.materialization for event in result.get_asset_materialization_events())
    }
    return made, log


OWN = {"rows": 3, "topic": "tides3", "beside": "beside metaxy"}


@pytest.mark.process
def test_it_runs_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECT_MODE", "local")
    made, _ = run(load(tmp_path))
    assert set(made) == {"numbers", "left", "right", "by_script"}
    assert {name: made["numbers"][name] for name in OWN} == OWN


@pytest.mark.cluster
@pytest.mark.process
@pytest.mark.parametrize("scope", ["asset", "run"])
def test_it_runs_on_a_cluster(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str) -> None:
    monkeypatch.setenv("SLURM_ALLOCATION_SCOPE", scope)
    for name, value in sandbox.env().items():
        monkeypatch.setenv(name.replace("SLURM_EDGE_NODE_", "SLURM_SSH_"), value)
        monkeypatch.delenv("SLURM_EDGE_NODE_HOST", raising=False)
    monkeypatch.setenv("PROJECT_MODE", "slurm")
    monkeypatch.setenv("PROJECT_BASE", f"~/test-runs/{tmp_path.name}")
    monkeypatch.setenv("PROJECT_ENVIRONMENT", copied_environment(sandbox, "tests", ["dagster-pipes"]))
    made, log = run(load(tmp_path))
    assert set(made) == {"numbers", "left", "right", "by_script"}
    assert {name: made["numbers"][name] for name in OWN} == OWN
    figures = made["numbers"]
    chosen = {"slurm_job_id", "slurm_accounting_available", "cpu_efficiency_pct", "max_memory_mb"}
    assert {"slurm_job_id", "home", "doubled"} <= set(figures) - set(OWN) <= chosen | {"home", "doubled"}
    job = int(str(figures["slurm_job_id"]).partition(".")[0])
    assert figures["doubled"] == 2 * job
    assert log.count("poll_timeout of run is one of dagster-slurm 1.22") <= 1
    named = "--job-name=mine --output=%j.log"
    assert f"Not applied of the #SBATCH lines of job.sh, since dagster-slurm sets it: {named}" in log
    if scope == "run":
        # Each is a step of the run's one job, as "12.4".
        assert {str(each["slurm_job_id"]).partition(".")[0] for each in made.values()} == {str(job)}
        return
    shown = sandbox.run(["scontrol", "show", "job", str(made["by_script"]["slurm_job_id"])]).stdout
    assert "CPUs/Task=2 " in shown
    assert "Comment=by the asset" in shown


@pytest.mark.cluster
@pytest.mark.process
def test_no_job_is_submitted_beside_one_of_1_22(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in sandbox.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    (tmp_path / "project").mkdir()
    (tmp_path / "payload.sh").write_text("true\n")
    queue = SlurmQueueConfig(partition="compute", cpus=1, mem="100M", time_limit="00:05:00")
    slurm = SlurmResource(ssh=SSHConnectionResource.from_env(), queue=queue, remote_base="~/test-runs/beside")
    compute = ComputeResource(mode="slurm", slurm=slurm)

    @dg.asset
    def train(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return compute.run(context, tmp_path / "payload.sh").get_materialize_result()

    def retried(job_id: str) -> tuple[bool, str]:
        tags = {"dagster_slurm/job_id": job_id, "dagster_slurm/asset_key": "train"}
        with empty_instance() as instance:
            result = dg.materialize([train], instance=instance, tags=tags, raise_on_error=False)
            said = [entry.message for entry in instance.all_logs(result.run_id)]
            failures = [str(event.step_failure_data.error) for event in result.get_step_failure_events()]
            return result.success, "\n".join([*said, *failures])

    # It waits, however fast the cluster is.
    held = ["sbatch", "--parsable", "--hold", "--job-name=dagster_train", "--partition=compute", "--wrap=true"]
    job_id = sandbox.run(held).stdout.strip()
    try:
        done = CliRunner().invoke(main, ["doctor", "--from-1.22", str(tmp_path / "project")])
        assert f"{job_id} dagster_train PENDING" in done.output
        assert done.exit_code == 1
        success, log = retried(job_id)
        assert not success
        assert f"Slurm job {job_id} of dagster-slurm 1.22, which this run has in its tags, is PENDING" in log
        assert "Submitted Slurm job" not in log
    finally:
        sandbox.run(["scancel", job_id])
    eventually(lambda: retried(job_id)[0], lambda: retried(job_id)[1])
