"""A component of ours, in a project as `dg` has it: what it defines, and what its runs do on this machine."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from dagster_slurm import RemotePath, SlurmPathIOManager, SlurmResourcesComponent, SlurmScriptComponent
from dagster_slurm.new_project import first_payload
from dagster_slurm.sandbox import Sandbox

pytestmark = pytest.mark.process

REPORTS = """
import json
from pathlib import Path
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    keys = pipes.get_extra("keys")
    for key in keys:
        said = {"from": pipes.extras, "files": sorted(p.name for p in Path(".").iterdir())}
        pipes.report_asset_materialization(asset_key=key, metadata={"said": json.dumps(said)})
    if pipes.extras.get("check"):
        pipes.report_asset_check(check_name="enough", asset_key=keys[0], passed=True, severity="WARN")
"""
COMPUTE = """
type: dagster_slurm.SlurmResourcesComponent
attributes:
  resources:
    compute: {mode: local}
"""


@contextmanager
def loaded(
    text: str, compute_file: str = COMPUTE, component: str = "SlurmScriptComponent", **files: str
) -> Iterator[dg.Definitions]:
    """The definitions of a project with that component, some files beside it, and a `compute` of its own."""
    with create_defs_folder_sandbox() as sandbox:
        compute, script = sandbox.defs_folder_path / "compute", sandbox.defs_folder_path / "script"
        compute.mkdir()
        script.mkdir()
        (compute / "defs.yaml").write_text(compute_file)
        for name, content in {"payload.py": REPORTS, **files}.items():
            (script / name.replace("__", ".")).write_text(content)
        (script / "defs.yaml").write_text(f"type: dagster_slurm.{component}\n{text}")
        with sandbox.build_all_defs() as defs:
            yield defs


def run(defs: dg.Definitions, instance: dg.DagsterInstance, **options: Any) -> dg.ExecuteInProcessResult:
    """Materialise all that is defined."""
    return defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance, **options)


def said_by(result: dg.ExecuteInProcessResult, key: str) -> Any:
    """What the payload has said of an asset."""
    events = {event.asset_key: event for event in result.get_asset_materialization_events()}
    materialization = events[dg.AssetKey(key)].materialization
    return json.loads(str(materialization.metadata["said"].value))


SEVERAL = """
attributes:
  execution:
    path: payload.py
    pool: licences
    tags: {team: ocean}
    retry_policy: {max_retries: 2, delay: 0.5, backoff: exponential, jitter: full}
  run:
    extras: {keys: [first, second], check: true}
    extra_files: [table.csv]
  assets:
    - key: first
      description: What comes first.
      deps: [given]
      group_name: tides
      owners: ["team:ocean"]
      tags: {tier: 1}
      kinds: [python]
      metadata: {unit: metres}
      code_version: v3
      automation_condition: "{{ dg.AutomationCondition.eager() }}"
      freshness_policy: "{{ fresh }}"
    - key: second
      deps: [first]
  checks:
    - {name: enough, asset: first, blocking: true}
"""
TEMPLATES = """
from datetime import timedelta
import dagster as dg

@dg.template_var
def fresh() -> dg.FreshnessPolicy:
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=36))
"""


def test_several_assets_with_all_that_a_spec_has(instance: dg.DagsterInstance) -> None:
    text = f"template_vars_module: .template_vars\n{SEVERAL}"
    with loaded(text, template_vars__py=TEMPLATES, table__csv="1,2\n") as defs:
        first = defs.resolve_asset_graph().get(dg.AssetKey("first"))
        spec = first.to_asset_spec()
        definition = defs.resolve_assets_def("first")
        result = run(defs, instance)
    assert (spec.description, spec.group_name, list(spec.owners)) == ("What comes first.", "tides", ["team:ocean"])
    assert [dep.asset_key for dep in spec.deps] == [dg.AssetKey("given")]
    assert spec.kinds == {"python", "slurm"}
    assert spec.tags["tier"] == "1"
    assert spec.metadata["unit"] == "metres"
    assert spec.code_version == "v3"
    assert spec.automation_condition == dg.AutomationCondition.eager()
    assert spec.freshness_policy == dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=36))
    assert definition.op.name == "first"
    assert definition.op.pool == "licences"
    assert definition.op.tags == {"team": "ocean"}
    assert definition.op.retry_policy == dg.RetryPolicy(2, 0.5, dg.Backoff.EXPONENTIAL, dg.Jitter.FULL)
    assert result.success
    assert said_by(result, "first")["files"] == ["payload.py", "table.csv"]
    assert said_by(result, "second")["from"]["check"] is True
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed


PARTITIONED = """
attributes:
  execution:
    path: payload.py
    backfill_policy: {type: single_run}
  run:
    extras: {keys: [daily]}
    max_parallel: 2
  assets:
    - key: daily
      partitions_def: {type: daily, start_date: "2026-01-01"}
"""


def test_a_run_of_several_partitions_reports_each(instance: dg.DagsterInstance) -> None:
    both = {"dagster/asset_partition_range_start": "2026-01-01", "dagster/asset_partition_range_end": "2026-01-02"}
    with loaded(PARTITIONED) as defs:
        assert defs.resolve_assets_def("daily").backfill_policy == dg.BackfillPolicy.single_run()
        several = run(defs, instance, tags=both)
        one = run(defs, instance, partition_key="2026-01-05")
    assert several.success
    assert one.success
    status = instance.get_materialized_partitions(dg.AssetKey("daily"))
    assert status == {"2026-01-01", "2026-01-02", "2026-01-05"}


def test_checks_alone(instance: dg.DagsterInstance) -> None:
    text = """
attributes:
  execution: {path: payload.py}
  run: {extras: {keys: [given], check: true}}
  checks: [{name: enough, asset: given}]
"""
    payload = REPORTS.replace("    for key in keys:", "    for key in []:")
    with loaded(text, payload__py=payload) as defs:
        job = dg.define_asset_job("checking", dg.AssetSelection.all_asset_checks())
        both = dg.Definitions.merge(defs, dg.Definitions(assets=[dg.AssetSpec("given")], jobs=[job]))
        result = both.resolve_job_def("checking").execute_in_process(instance=instance)
    assert result.success
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed


def test_the_launchpad_takes_what_it_takes_elsewhere(instance: dg.DagsterInstance) -> None:
    text = """
attributes:
  execution: {path: payload.py, name: reporting}
  run: {extras: {keys: [model]}}
  assets: [{key: model}]
"""
    wrong = {"ops": {"reporting": {"config": {"extra_slurm_opts": {"partitoin": "gpu"}}}}}
    with loaded(text) as defs:
        result = run(defs, instance, run_config=wrong, raise_on_error=False)
    assert not result.success
    (failure,) = result.get_step_failure_events()
    assert "partitoin" in str(failure.step_failure_data.user_failure_data or failure.step_failure_data.error)


def test_neither_assets_nor_checks() -> None:
    text = "attributes: {execution: {path: payload.py}}"
    with pytest.raises(Exception, match="Error while building") as caught, loaded(text):
        pass
    assert "names neither assets nor checks" in str(caught.value.__cause__)


@pytest.mark.parametrize("kinds", [9, 10])
def test_an_asset_has_our_kind_where_there_is_room(kinds: int) -> None:
    words = ", ".join(f"kind{number}" for number in range(kinds))
    text = f"attributes: {{execution: {{path: payload.py}}, assets: [{{key: model, kinds: [{words}]}}]}}"
    with loaded(text) as defs:
        spec = defs.resolve_asset_graph().get(dg.AssetKey("model")).to_asset_spec()
    assert ("slurm" in spec.kinds) == (kinds == 9)


class TestScaffolding:
    def test_what_is_written_runs(self, instance: dg.DagsterInstance) -> None:
        with create_defs_folder_sandbox() as sandbox:
            path = sandbox.scaffold_component(SlurmScriptComponent, "numbers")
            assert (path / "payload.py").read_text() == first_payload()
            with sandbox.build_all_defs() as defs:
                result = run(defs, instance)
        assert result.success
        (event,) = result.get_asset_materialization_events()
        assert event.asset_key == dg.AssetKey("numbers")
        assert event.materialization.metadata["sum"].value == 499500

    def test_a_resource_that_is_there_is_left_alone(self) -> None:
        with create_defs_folder_sandbox() as sandbox:
            sandbox.scaffold_component(SlurmResourcesComponent, "machines")
            sandbox.scaffold_component(SlurmScriptComponent, "numbers")
            found = {file.parent.name for file in sandbox.defs_folder_path.rglob("defs.yaml")}
            written = yaml.safe_load((sandbox.defs_folder_path / "machines" / "defs.yaml").read_text())
        assert found == {"machines", "numbers"}
        assert written["attributes"]["resources"]["compute"]["slurm"] == "from_env"


IN_A_SESSION = """
type: dagster_slurm.SlurmResourcesComponent
attributes:
  resources:
    compute:
      mode: slurm-session
      slurm: from_env
      session: {num_nodes: 1, cpus_per_task: 2, mem: 500M, time_limit: "10 min", partition: auto}
"""
TWO_CALLS = """
attributes:
  execution: {path: job.sh}
  run: {extra_slurm_opts: {cpus: 1, mem: 100M}}
  assets: [{key: first}]
---
type: dagster_slurm.SlurmScriptComponent
attributes:
  execution: {path: job.sh}
  run: {extra_slurm_opts: {cpus: 1, mem: 100M}}
  assets: [{key: second, deps: [first]}]
"""


@pytest.mark.cluster
def test_components_share_the_allocation_of_a_session(
    instance: dg.DagsterInstance, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whose partition is chosen."""
    for name, value in sandbox.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_REMOTE_BASE", f"~/test-runs/{tmp_path.name}")
    with loaded(TWO_CALLS, IN_A_SESSION, job__sh='echo "in $SLURM_JOB_PARTITION"\n') as defs:
        result = run(defs, instance)
    assert result.success
    made = result.get_asset_materialization_events()
    ids = [str(event.materialization.metadata["slurm_job_id"].value).split(".") for event in made]
    assert len(ids) == 2
    assert len({job for job, step in ids}) == 1
    said = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert sum("The partition compute of" in line for line in said) == 1


KEEPS = """
attributes:
  execution:
    path: keeps.sh
    backfill_policy: {type: single_run}
  run: {keep_on_cluster: [wave]}
  assets:
    - key: waves
      partitions_def: {type: static, partition_keys: [jan, feb, mar]}
      metadata: {dagster/io_manager_key: on_cluster}
"""


def test_what_stays_on_the_cluster_is_the_value_of_an_asset_with_an_io_manager(instance: dg.DagsterInstance) -> None:
    """Of a run of one partition, and of one of a range."""
    found: dict[str, RemotePath] = {}

    @dg.asset
    def read(waves: dict[str, RemotePath]) -> None:
        found.update(waves)

    more = dg.Definitions(
        assets=[read],
        jobs=[dg.define_asset_job("some", "waves"), dg.define_asset_job("after", "read")],
        resources={"on_cluster": SlurmPathIOManager()},
    )
    with loaded(KEEPS, keeps__sh="echo 1 >wave\n") as defs:
        both = dg.Definitions.merge(defs, more)
        some = both.resolve_job_def("some")
        some.execute_in_process(instance=instance, partition_key="jan")
        tags = {f"dagster/asset_partition_range_{end}": key for end, key in (("start", "feb"), ("end", "mar"))}
        some.execute_in_process(instance=instance, tags=tags)
        both.resolve_job_def("after").execute_in_process(instance=instance)
    assert {key: Path(path.path).read_text() for key, path in found.items()} == dict.fromkeys(
        ("jan", "feb", "mar"), "1\n"
    )
