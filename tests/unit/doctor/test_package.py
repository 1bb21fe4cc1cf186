"""Which package runs, and which is installed by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagster_slurm.doctor.package import judge_package

PATH = Path("/venv/dagster_slurm")


@pytest.mark.parametrize("installed", ["0.2.0", None])
def test_it_is_this_one(installed: str | None) -> None:
    finding = judge_package("0.2.0", PATH, installed)
    assert (finding.status, finding.found) == ("ok", "dagster-slurm 0.2.0, in /venv/dagster_slurm")


def test_it_is_another_one() -> None:
    finding = judge_package("0.2.0", PATH, "1.22.0")
    assert finding.status == "wrong"
    assert "0.2.0 is imported from /venv/dagster_slurm, and 1.22.0 is installed" in finding.problem
    assert "another package" in finding.remedy
