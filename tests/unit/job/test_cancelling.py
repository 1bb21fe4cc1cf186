"""What is to be cancelled, as another process reads it."""

from __future__ import annotations

import pytest

from dagster_slurm.job.cancelling import Order
from dagster_slurm.run_directory import JobHandle, RunDirectory


def test_an_order_comes_back() -> None:
    first = RunDirectory("/home/me/runs", "run", "tide-12ab")
    second = first.of_attempt(1)
    order = Order((first, second), (JobHandle(first, "12"), JobHandle(second, "13", 2)))
    assert Order.from_json(order.to_json(), "/home/me/runs") == order


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"attempts": ["a"], "jobs": []}', '{"attempts": [], "jobs": [1]}'])
def test_what_is_no_order(text: str) -> None:
    with pytest.raises(ValueError):
        Order.from_json(text, "/home/me/runs")
