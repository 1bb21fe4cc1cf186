"""partition="auto": chosen on a real cluster, asked for once, and shown by a plan and in the log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm import ComputeResource
from dagster_slurm.errors import InvalidRequestError
from tests.assets.conftest import asset_of, metadata_of, run_asset
from tests.support.traced import name_of, watched_requests

pytestmark = pytest.mark.cluster


def test_the_one_that_fits_is_chosen(
    slurm: Callable[..., ComputeResource],
    instance: dg.DagsterInstance,
    payload: Callable[..., Path],
) -> None:
    compute, asked = slurm(queue={"partition": "auto"}), []
    path = payload('echo "in $SLURM_JOB_PARTITION"\n', "payload.sh")
    with watched_requests(lambda script, args: asked.append(name_of(script, args))):
        plan = compute.plan(payload_path=path)
        result = run_asset(asset_of(path), compute, instance)
    assert result.success
    assert metadata_of(result)["slurm_state"] == "COMPLETED"
    assert ("--partition", "compute", "resource") in [(each.name, each.value, each.source) for each in plan.options]
    (chosen,) = [each.value for each in plan.settings if each.name == "partition"]
    assert chosen.startswith("compute, chosen: the default, and the first of 2 that fit; others: debug")
    said = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any("is chosen for the job: the default" in line for line in said)
    # The run goes by the answer that the plan has had, or another process before.
    assert asked.count("partitions") <= 1
    with pytest.raises(InvalidRequestError, match=r"compute: time limit 1-00:00:00, 2-00:00:00 asked for; debug: time"):
        compute.plan(payload_path=path, extra_slurm_opts={"time_limit": "2-00:00:00"})
