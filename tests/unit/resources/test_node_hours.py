"""A job that costs more than is allowed is refused before anything is done."""

from __future__ import annotations

import pytest

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.slurm.request import merge
from dagster_slurm.work.spec import affordable


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({"nodes": 4, "time_limit": "02:00:00"}, 8.0),
        ({"nodes": 4, "time_limit": "1-00:00:00"}, None),
        ({"time_limit": "UNLIMITED"}, None),
    ],
)
def test_within(asked: dict[str, object], most: float | None) -> None:
    request = merge(asked)
    assert affordable(request, most) is request


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"nodes": 4, "time_limit": "02:00:01"}, r"asks for 8\.00\d* node-hours \(4 nodes\), and max_node_hours is 8"),
        ({"time_limit": "UNLIMITED"}, "no walltime"),
        ({}, "no walltime"),
    ],
)
def test_refused(asked: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        affordable(merge(asked), 8)
