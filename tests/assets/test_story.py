"""What a run tells of a job: two events, with the wait between them as a span of the time line, and rows to copy."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource
from tests.assets.conftest import asset_of, run_asset

Make = Callable[..., ComputeResource]

pytestmark = [pytest.mark.process, pytest.mark.cluster]


def _told(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> list[tuple[str, Any]]:
    """The engine events about a job, with what they carry."""
    entries = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    about = [entry for entry in entries if "Slurm" in entry.user_message]
    assert {entry.step_key for entry in about} == {"measured"}
    return [(entry.user_message, entry.get_dagster_event().event_specific_data) for entry in about]


def _rows(data: Any) -> Mapping[str, object]:
    return {name: value.value for name, value in data.metadata.items()}


def test_a_job(slurm: Make, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    payload = tmp_path / "payload.sh"
    payload.write_text("echo here\n")
    asset = asset_of(payload, extra_slurm_opts={"mem": "50M", "exclusive": True})
    result = run_asset(asset, slurm(job_url="https://portal.example.org/jobs/{job_id}?tab=1"), instance)
    (said, submitted), (where, runs) = _told(result, instance)
    job_id = said.split()[3]
    assert said.startswith(f"Submitted Slurm job {job_id} (measured-")
    assert where == f"Slurm job {job_id} runs on {runs.metadata['nodes'].value}"
    assert submitted.marker_start == runs.marker_end == f"Slurm job {job_id}"
    rows = _rows(submitted)
    assert list(rows) == ["page", "asked", "directory", "state", "output"]
    assert submitted.metadata["page"] == dg.MetadataValue.url(f"https://portal.example.org/jobs/{job_id}?tab=1")
    assert {"--mem=50M", "--exclusive", "--partition=compute"} <= set(str(rows["asked"]).split())
    assert rows["state"] == f"squeue --jobs={job_id}; scontrol show job {job_id}"
    assert rows["output"] == f"tail -F {rows['directory']}/log/stdout.*"
