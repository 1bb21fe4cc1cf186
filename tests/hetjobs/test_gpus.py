"""GPUs of components of heterogeneous jobs, and of steps of sessions, as Slurm numbers them; none of them computes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmSessionResource
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.sandbox.pytest_plugin import config_for_this_worker, skip_where_it_cannot_run
from tests.assets.conftest import log_messages, slurm
from tests.support.environments import copied_environment

from .conftest import REPORTS, run_components

__all__ = ["slurm"]

pytestmark = [pytest.mark.cluster, pytest.mark.process, pytest.mark.all_faults, pytest.mark.timeout(240)]

Make = Callable[..., ComputeResource]
Write = Callable[..., Path]
# What the payload sees, and what a step of its own does.
SEES = """
import json, os, subprocess
def seen(*command):
    look = "echo ${CUDA_VISIBLE_DEVICES:-none} ${SLURM_GPUS_ON_NODE:-none}"
    return subprocess.run([*command, "sh", "-c", look], check=True, capture_output=True, text=True).stdout.strip()
found = [seen(), seen("srun", "--ntasks=1", "--nodes=1")]
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A cluster of its own, whose two nodes have two GPUs each."""
    skip_where_it_cannot_run()
    with Sandbox(config_for_this_worker("tests-gpus", "gpus", nodes=2, gpus_per_node=2)).running() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def environment_path(sandbox: Sandbox) -> str:
    return copied_environment(sandbox, "tests", ["dagster-pipes"])


def test_components_have_their_own(slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
    asked: dict[str, dict[str, object]] = {"a": {"gpus_per_node": 1}, "b": {"gpus_per_node": 2}}
    says = f"{SEES}\npipes.log.info(f'{{asset}} sees {{found}}')"
    ran = run_components(slurm(mode="slurm-hetjob"), instance, payload(REPORTS), asked, {"a": says, "b": says})
    assert ran.result.success, ran.log
    assert "a sees ['0 1', '0 1']" in ran.log
    assert "b sees ['0,1 2', '0,1 2']" in ran.log


# As many at once as there are: each waits for the others.
STEP = f"""
import pathlib, time
from dagster_pipes import open_dagster_pipes
{SEES}
with open_dagster_pipes() as pipes:
    beside = pathlib.Path(os.environ["MEETING"])
    beside.mkdir(exist_ok=True)
    (beside / pipes.partition_key).touch()
    while len(list(beside.iterdir())) < 3:
        time.sleep(0.1)
    found.append(os.environ["SLURMD_NODENAME"])
    pipes.report_asset_materialization(metadata={{"found": "; ".join(found)}})
"""
THREE = dg.StaticPartitionsDefinition(["a", "b", "c"])
RANGE = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"}


@pytest.mark.parametrize("gpus", [1, 0])
def test_steps_that_run_at_once_have_their_own(
    slurm: Make, sandbox: Sandbox, instance: dg.DagsterInstance, payload: Write, gpus: int
) -> None:
    session = SlurmSessionResource(num_nodes=2, cpus_per_task=4, mem="1G", gpus_per_node=2, time_limit="00:10:00")
    path = payload(STEP)
    meeting = {"MEETING": str(sandbox.home / f"{path.parent.name}-{gpus}")}
    share = {"mem": "100M", **({"gpus_per_node": gpus} if gpus else {})}

    @dg.asset(partitions_def=THREE, backfill_policy=dg.BackfillPolicy.single_run())
    def steps(context: dg.AssetExecutionContext, compute: ComputeResource) -> Any:
        done = compute.run_partitions(context, path, extra_env=meeting, extra_slurm_opts=share)
        return done.get_materialize_result()

    compute = slurm(mode="slurm-session", session=session)
    result = dg.materialize([steps], resources={"compute": compute}, instance=instance, tags=RANGE)
    assert result.success, log_messages(result, instance)
    events = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    found = [each.asset_materialization.metadata["found"].value for each in events if each.asset_materialization]
    seen = [str(text).split("; ") for text in found]
    assert len(seen) == 3
    # What a step's own srun starts has its GPUs, no more.
    assert all(own == inner for own, inner, _ in seen), seen
    if gpus:
        assert {own.split()[1] for own, _, _ in seen} == {"1"}
        assert len({(own.split()[0], node) for own, _, node in seen}) == 3, "no two have the same"
    else:
        assert {own for own, _, _ in seen} == {"none none"}
