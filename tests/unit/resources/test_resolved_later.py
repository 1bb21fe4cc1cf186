"""What Dagster resolves later: variables, resources that are configured in the launchpad, and nulls there."""

from typing import Any

import dagster as dg
import pytest
from tests.support.instances import empty_instance

from dagster_slurm import (
    ComputeResource,
    SlurmQueueConfig,
    SlurmResource,
    SlurmRunConfig,
    SSHConnectionResource,
)


def seen_of(resources: dict[str, Any], run_config: dict[str, Any] | None = None, **config: Any) -> ComputeResource:
    seen = []

    @dg.asset
    def seeing(compute: ComputeResource) -> None:
        seen.append(compute)

    job = dg.Definitions(assets=[seeing], resources=resources).resolve_implicit_global_asset_job_def()
    with empty_instance() as instance:
        assert job.execute_in_process(run_config=run_config or {}, instance=instance).success
    return seen[0]


@pytest.mark.parametrize("field", ["mode", "reattach"])
def test_a_variable_for_a_choice(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mode=EnvVar("MODE")`, as every example of two deployments has it."""
    good, bad = {"mode": ("local", "cloud"), "reattach": ("never", "always")}[field]
    resource = ComputeResource(**{"mode": "local", field: dg.EnvVar("CHOSEN")})
    monkeypatch.setenv("CHOSEN", good)
    assert getattr(seen_of({"compute": resource}), field) == good
    monkeypatch.setenv("CHOSEN", bad)
    with pytest.raises(dg.DagsterError) as caught:
        seen_of({"compute": resource})
    assert f"Input should be '{good}'" in str(caught.value.__cause__) or " or " in str(caught.value.__cause__)


def test_a_choice_is_checked_at_once() -> None:
    with pytest.raises(ValueError, match="Input should be 'local', 'slurm', 'slurm-session' or 'slurm-hetjob'"):
        ComputeResource(mode="cloud")
    assert SSHConnectionResource(host="h", host_key_checking=dg.EnvVar("CHECKING")).host == "h"
    with pytest.raises(ValueError, match="'accept-new', 'off' or 'inherit'"):
        SSHConnectionResource(host="h", host_key_checking="no")


def test_nested_resources_of_the_launchpad() -> None:
    cluster, queue = SlurmResource.configure_at_launch(), SlurmQueueConfig.configure_at_launch()
    compute = ComputeResource(mode="slurm", slurm=cluster)
    run_config = {"resources": {"slurm": {"config": {"remote_base": "~/x"}}}}
    assert seen_of({"compute": compute, "slurm": cluster}, run_config).cluster().remote_base == "~/x"
    compute = ComputeResource(mode="slurm", slurm=SlurmResource(queue=queue))
    run_config = {"resources": {"queue": {"config": {"partition": "gpu"}}}}
    assert seen_of({"compute": compute, "queue": queue}, run_config).cluster().queue.partition == "gpu"


@pytest.mark.parametrize("values", [{"constraint": None, "mem": "1G"}, {"constraint": None}])
def test_null_in_the_launchpad(values: dict[str, Any]) -> None:
    """Dagster said "Null map member not caught in validation"."""
    seen = []

    @dg.asset
    def seeing(config: SlurmRunConfig) -> None:
        seen.append(config.extra_slurm_opts)

    job = dg.Definitions(assets=[seeing]).resolve_implicit_global_asset_job_def()
    run_config = {"ops": {"seeing": {"config": {"extra_slurm_opts": values}}}}
    with empty_instance() as instance:
        assert job.execute_in_process(run_config=run_config, instance=instance).success
    assert seen == [values]
