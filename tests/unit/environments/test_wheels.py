"""Wheels that are built here are for the cluster, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagster_slurm.environments.target import Target
from dagster_slurm.environments.uv import check_platform
from dagster_slurm.errors import EnvironmentBuildError


@pytest.mark.parametrize(
    ("filename", "platform"),
    [
        ("tides-1.0-py3-none-any.whl", "linux-64"),
        ("tides-1.0-cp311-cp311-linux_x86_64.whl", "linux-64"),
        ("tides-1.0-cp311-abi3-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", "linux-aarch64"),
    ],
)
def test_that_fit(filename: str, platform: str) -> None:
    check_platform(filename, Path("tides"), Target(platform))


@pytest.mark.parametrize(
    ("filename", "platform", "named"),
    [
        ("tides-1.0-cp311-cp311-macosx_14_0_arm64.whl", "linux-64", "macosx_14_0_arm64"),
        ("tides-1.0-cp311-cp311-linux_x86_64.whl", "linux-aarch64", "linux_x86_64"),
        ("tides-1.0-cp311-cp311-win_amd64.whl", "linux-64", "win_amd64"),
    ],
)
def test_that_do_not(filename: str, platform: str, named: str) -> None:
    with pytest.raises(EnvironmentBuildError, match=f"is for {named}, and not for {platform}"):
        check_platform(filename, Path("tides"), Target(platform))
