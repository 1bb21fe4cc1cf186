"""A mode is a word, and code may read it as the enum's member."""

from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, ExecutionMode, SlurmResource


def test_the_enum_has_four_members() -> None:
    assert {each.name: each.value for each in ExecutionMode} == {
        "LOCAL": "local",
        "SLURM": "slurm",
        "SLURM_SESSION": "slurm-session",
        "SLURM_HETJOB": "slurm-hetjob",
    }


@pytest.mark.parametrize("mode", [ExecutionMode.SLURM, "slurm"])
def test_a_member_does_in_a_run_as_well(mode: Any) -> None:
    seen: list[Any] = []

    @dg.op
    def look(compute: ComputeResource) -> None:
        seen.append((compute.mode.value, compute.mode.name, str(compute.mode), compute.mode == ExecutionMode.SLURM))  # type: ignore[attr-defined]

    @dg.job(resource_defs={"compute": ComputeResource(mode=mode, slurm=SlurmResource())})
    def looks() -> None:
        look()

    assert looks.execute_in_process().success
    assert seen == [("slurm", "SLURM", "slurm", True)]


def test_a_variable_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODE_OF_TEST", "local")

    @dg.op
    def look(compute: ComputeResource) -> str:
        return compute.mode.value  # type: ignore[attr-defined, no-any-return]

    @dg.job(resource_defs={"compute": ComputeResource(mode=dg.EnvVar("MODE_OF_TEST"))})
    def looks() -> None:
        look()

    assert looks.execute_in_process().output_for_node("look") == "local"
