"""The two Pipes clients by themselves, without a `ComputeResource`."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, LocalPipesClient, SlurmPipesClient
from dagster_slurm.errors import UnknownOptionError

from .conftest import compute_log

pytestmark = pytest.mark.process

Write = Callable[..., Path]
REPORT = (
    "from dagster_pipes import open_dagster_pipes\n"
    "with open_dagster_pipes() as pipes:\n"
    "    print('ran')\n"
    "    pipes.report_asset_materialization(metadata={'answer': pipes.extras['answer']})\n"
)


def materialize(client: Callable[..., object], instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    @dg.asset
    def measured(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        completed = client(context=context, extras={"answer": 42})
        return completed.get_materialize_result()  # type: ignore[attr-defined,no-any-return]

    return dg.materialize([measured], instance=instance)


def test_local_client_with_a_path(instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload(REPORT)
    result = materialize(lambda **call: LocalPipesClient().run(payload=path, **call), instance)
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["answer"].value == 42
    assert compute_log(result, instance) == "ran\n"


@pytest.mark.cluster
def test_slurm_client_with_a_path_and_options(
    slurm: Callable[..., ComputeResource], instance: dg.DagsterInstance, payload: Write, environment_path: str
) -> None:
    path, cluster = payload(REPORT), slurm().slurm
    assert cluster is not None
    client = SlurmPipesClient(cluster.connect(), pre_deployed_env_path=environment_path)
    options = {"partition": "debug", "mem": "100M", "time_limit": "00:02:00"}
    result = materialize(lambda **call: client.run(payload=str(path), request=options, **call), instance)
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["answer"].value == 42
    assert event.materialization.metadata["slurm_state"].value == "COMPLETED"


@pytest.mark.cluster
def test_slurm_client_refuses_options_by_name(
    slurm: Callable[..., ComputeResource], instance: dg.DagsterInstance, payload: Write
) -> None:
    path, cluster = payload(REPORT), slurm().slurm
    assert cluster is not None
    client = SlurmPipesClient(cluster.connect())
    with pytest.raises(dg.Failure, match="'memm'") as failed:
        materialize(lambda **call: client.run(payload=path, request={"memm": "1G"}, **call), instance)
    assert isinstance(failed.value.__cause__, UnknownOptionError)
    assert not failed.value.allow_retries
