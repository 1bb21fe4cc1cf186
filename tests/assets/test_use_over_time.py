"""What a job has used as time went on: sampled by its batch script, and shown with its materialisation."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from PIL import Image

from dagster_slurm import ComputeResource
from dagster_slurm.pipes.usage import past_uses

from .conftest import asset_of, log_messages, metadata_of, run_asset

pytestmark = pytest.mark.cluster

Write = Callable[..., Path]
Make = Callable[..., ComputeResource]

# A CPU of its own for four seconds, with 80 MiB; then none.
BUSY = """
import time
block = bytearray(80 << 20)
while time.process_time() < 4:
    pass
time.sleep(12)
"""


def plot_of(metadata: dict[str, Any]) -> Image.Image:
    """The picture in the Markdown."""
    text = metadata["slurm_usage_plot"]
    return Image.open(io.BytesIO(base64.b64decode(text.partition("data:image/png;base64,")[2].removesuffix(")"))))


def test_a_job_has_a_plot_of_its_use(slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
    result = run_asset(asset_of(payload(BUSY)), slurm(queue={"cpus": 2, "mem": "200M"}), instance)
    got = metadata_of(result)
    assert list(got)[-1] == "slurm_usage_plot"
    # Beside others on this machine, it may not get the whole of a CPU.
    assert 0.2 <= got["max_cpus_used"] <= 1.5
    assert plot_of(got).size[0] == 640
    (use,) = past_uses(instance, dg.AssetKey("measured"))
    assert (use.cpus, use.memory_mib) == (got["max_cpus_used"], got["max_memory_mb"])
    assert (use.elapsed_seconds or 0) >= 15


WAITS = "import time\ntime.sleep(16)\n"
LONG = {"elapsed_seconds": 17.5, "max_memory_mb": 20.0, "max_cpus_used": 0.5}


@pytest.mark.all_faults
def test_the_third_run_says_what_would_do(slurm: Make, instance: dg.DagsterInstance, payload: Write) -> None:
    asset = asset_of(payload(WAITS))
    for _ in range(2):
        instance.report_runless_asset_event(dg.AssetMaterialization("measured", metadata=LONG))
    got = metadata_of(run_asset(asset, slurm(queue={"time_limit": "02:00:00"}), instance))
    longest = max(got["elapsed_seconds"], 17.5)
    said = f'Used at most {longest:.0f} s of 2 h in the last 3 runs: time_limit="00:15:00" would do'
    assert got["slurm_advice"] == said
    assert list(got)[-2:] == ["slurm_advice", "slurm_usage_plot"]


PARTITIONS = dg.StaticPartitionsDefinition(["a", "b", "c"])


@pytest.mark.all_faults
def test_a_range_of_partitions_has_one_line_and_no_plots(
    slurm: Make, instance: dg.DagsterInstance, payload: Write
) -> None:
    path = payload(WAITS)

    @dg.asset(partitions_def=PARTITIONS, backfill_policy=dg.BackfillPolicy.single_run())
    def many(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        return compute.run_partitions(context, path).get_materialize_result()

    first, last = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    result = run_asset(
        many, slurm(queue={"time_limit": "02:00:00", "mem": "50M"}), instance, tags={first: "a", last: "c"}
    )
    assert result.success
    (line,) = [each for each in log_messages(result, instance) if "would do" in each]
    assert 'of 2 h in 3 partitions: time_limit="00:15:00" would do' in line
    made = instance.fetch_materializations(dg.AssetKey("many"), limit=10).records
    keys = {name for record in made if record.asset_materialization for name in record.asset_materialization.metadata}
    assert "max_cpus_used" in keys
    assert not {"slurm_advice", "slurm_usage_plot"} & keys
