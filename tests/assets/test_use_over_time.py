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

from .conftest import asset_of, metadata_of, run_asset

pytestmark = pytest.mark.cluster

Write = Callable[..., Path]
Make = Callable[..., ComputeResource]

# A CPU of its own for four seconds, with 80 MiB; then none.
BUSY = """
import time
block = bytearray(80 << 20)
while time.process_time() < 4:
    pass
time.sleep(4)
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
    assert (use.elapsed_seconds or 0) >= 8
