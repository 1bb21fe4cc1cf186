"""What a call asks for, as one value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dagster_slurm.environments import Activation
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.request import merge
from dagster_slurm.staging import DataOptions, plan_staging
from dagster_slurm.work.spec import WorkSpec


@pytest.mark.parametrize(
    ("extra", "array", "is_linked"),
    [(0, "0-9", True), (15, "0-9", True), (16, "0-9", False), (0, None, False)],
    ids=["an array", "of sixteen files", "of seventeen", "a job"],
)
def test_links_of_tasks_come_with_the_run_directory_if_they_are_few(
    tmp_path: Path, extra: int, array: str | None, is_linked: bool
) -> None:
    for name in ("payload.sh", *map(str, range(extra))):
        (tmp_path / name).write_text("echo")
    files = [tmp_path / str(number) for number in range(extra)]
    spec = WorkSpec.of(tmp_path / "payload.sh", extra_files=files)
    script = spec.batch_script(RunDirectory("/b", "r", "k"), Activation((), "py", ""), merge({}), array=array)
    # Inputs are placed in a working directory that is there.
    staging = plan_staging(DataOptions(inputs=[tmp_path / "payload.sh"]), uploaded=[])
    assert (spec.is_linked, replace(spec, staging=staging).is_linked) == (extra < 16, False)
    assert ("\nlinked=yes\n" in script, "\nlinked=\n" in script) == (is_linked, not is_linked)
