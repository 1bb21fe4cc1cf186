"""Environments that a command of the project makes on a real login node."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
from dagster_slurm.sandbox import Sandbox
from tests.support.instances import empty_instance

pytestmark = [pytest.mark.cluster, pytest.mark.process]
COMMAND: Any = """
python3 -m venv --without-pip "$DAGSTER_SLURM_ENV_BASE_DIR/$NAME"
cat in.txt >"$DAGSTER_SLURM_ENV_BASE_DIR/$NAME/mark"
"""


def test_it_is_made_once_and_entered(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in sandbox.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text(tmp_path.name)
    (tmp_path / "a.sh").write_text('[ "$(cat "$VIRTUAL_ENV/mark")" = "$1$NAME_OF_TEST" ] && command -v python\n')
    compute = ComputeResource(
        mode="slurm",
        slurm=SlurmResource(
            ssh=SSHConnectionResource.from_env(),
            queue=SlurmQueueConfig(partition="compute", cpus=1, mem="100M", time_limit="00:05:00"),
            remote_base=f"~/test-runs/{tmp_path.name}",
        ),
        project_setup_cmd=COMMAND,
        project_setup_env={"NAME": "analysis"},
        project_setup_input_globs=["*.txt"],
    )
    variables = {"NAME_OF_TEST": tmp_path.name}

    @dg.asset
    def one(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        run = compute.run(context, "a.sh", environment_name="analysis", extra_env=variables)
        return run.get_materialize_result()

    @dg.asset(deps=[one])
    def other(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        assert "installed first" not in compute.plan(context, "a.sh").environment
        return compute.run(context, "a.sh", extra_env=variables).get_materialize_result()

    @dg.asset(deps=[other])
    def missing(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return compute.run(context, "a.sh", environment_name="nothing").get_materialize_result()

    with empty_instance() as instance:
        result = dg.materialize([one, other, missing], instance=instance, raise_on_error=False)
        log = "\n".join(entry.message for entry in instance.all_logs(result.run_id))
    made = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key}
    assert made == {"one", "other"}, log
    assert log.count("Packing what `bash -c") == 1
    assert "environments/analysis" in log
    assert "environments/default" in log
    (failure,) = (event.step_failure_data for event in result.get_step_failure_events())
    assert failure.error is not None
    assert "has no usable environment 'nothing'" in failure.error.message + str(failure.error.cause)
