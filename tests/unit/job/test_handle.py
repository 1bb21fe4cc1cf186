"""Names of a piece of work: stable, distinct, and safe for files and for Slurm."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.run_directory import LaunchKey, RunDirectory

KEY = LaunchKey("3b9e4f6e-8f0a-4b1e-9c53-0d8b7f3f2a10", "my_asset", ("2024-01-01",), "train")
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=80)
keys = st.builds(LaunchKey, text, text, st.lists(text, max_size=3).map(tuple), text)


def test_golden_digest() -> None:
    # Handles of earlier releases are found again by this; changing it means a new protocol version.
    assert KEY.digest == "da2c9d5d850f"
    assert LaunchKey("run", "step").digest == "d1aab1b1e631"


def test_golden_names() -> None:
    assert KEY.directory_name == "my_asset-da2c9d5d850f"
    directory = KEY.first_attempt("/scratch/me")
    assert directory.path == f"/scratch/me/runs/{KEY.origin_run_id}/my_asset-da2c9d5d850f/0"
    assert directory.launch == f"/scratch/me/runs/{KEY.origin_run_id}/my_asset-da2c9d5d850f"


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, origin_run_id="another"),
        replace(KEY, step_key="my_asset2"),
        replace(KEY, step_key="my_asset[1]"),
        replace(KEY, partition_keys=()),
        replace(KEY, partition_keys=("2024-01-01", "2024-01-02")),
        replace(KEY, partition_keys=("2024-01-012024-01-02",)),
        replace(KEY, call="0"),
        replace(KEY, partition_keys=(), call="2024-01-01"),
    ],
)
def test_another_part_is_another_digest(other: LaunchKey) -> None:
    assert other.digest != KEY.digest


def test_parts_do_not_run_together() -> None:
    assert LaunchKey("a", "bc").digest != LaunchKey("ab", "c").digest
    assert LaunchKey("a", "b", ("c", "d")).digest != LaunchKey("a", "b", ("c,d",)).digest
    assert LaunchKey("a", "b", ('c", "d',)).digest != LaunchKey("a", "b", ("c", "d")).digest


@given(keys, keys)
def test_equal_keys_and_only_they_have_one_digest(one: LaunchKey, other: LaunchKey) -> None:
    assert (one.digest == other.digest) == (one == other)
    assert (one.directory_name == other.directory_name) == (one == other)


@given(keys)
def test_names_are_safe_for_files_and_for_slurm(key: LaunchKey) -> None:
    directory = key.first_attempt("/base")
    for name in (key.directory_name, directory.job_name(), directory.of_attempt(3).job_name(2), directory.run):
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name)
    assert directory.path.count("/") == len(["", "base", "runs", "run", "key", "0"]) - 1


@given(keys, st.integers(0, 99))
def test_a_directory_is_found_again_by_its_relative_path(key: LaunchKey, attempt: int) -> None:
    directory = key.first_attempt("/base").of_attempt(attempt)
    assert RunDirectory.from_relative("/base", directory.relative) == directory


def test_each_try_to_submit_has_a_job_name_of_its_own() -> None:
    directory = KEY.first_attempt("/base")
    names = [directory.of_attempt(attempt).job_name(generation) for attempt in range(12) for generation in range(12)]
    assert len(set(names)) == len(names)
    assert names[0] == KEY.directory_name
    assert [directory.try_named(name) for name in names] == [(n // 12, n % 12) for n in range(144)]
    others = (f"{names[0]}.1", f"{names[0]}0", f"x{names[0]}", f"{names[0]}.1.2.3", "")
    assert [directory.try_named(name) for name in others] == [None] * 5
