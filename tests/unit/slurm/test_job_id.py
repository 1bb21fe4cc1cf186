"""Ids of jobs and of their parts, as Slurm writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.errors import SlurmOutputError
from dagster_slurm.slurm.job_id import JobId

numbers = st.integers(0, 4_294_967_295)
steps = st.just("") | numbers.map(str) | st.sampled_from(["batch", "extern", "interactive", "TBD", "0+1"])
job_ids = st.one_of(
    st.builds(JobId, numbers, step=steps),
    st.builds(JobId, numbers, task=numbers, step=steps),
    st.builds(JobId, numbers, component=numbers, step=steps),
    st.builds(JobId, numbers, waiting=st.sampled_from(["3", "3-9%2", "1,3-4", "0-8:4", "41,43,4...%1"])),
)


@given(job_ids)
def test_round_trip(job_id: JobId) -> None:
    assert JobId.parse(str(job_id)) == job_id


@pytest.mark.parametrize(
    ("text", "job_id"),
    [
        ("12", JobId(12)),
        ("12_3", JobId(12, task=3)),
        ("12_[3-9%2]", JobId(12, waiting="3-9%2")),
        ("12+1", JobId(12, component=1)),
        ("12.4", JobId(12, step="4")),
        ("12.batch", JobId(12, step="batch")),
        ("12_3.extern", JobId(12, task=3, step="extern")),
        ("12+1.0", JobId(12, component=1, step="0")),
        ("12.0+1", JobId(12, step="0+1")),
    ],
)
def test_parts(text: str, job_id: JobId) -> None:
    assert (JobId.parse(text), str(job_id)) == (job_id, text)
    assert job_id.in_queue == "12"
    assert job_id.is_task is ("_" in text)
    assert str(job_id.whole) == text.partition(".")[0]


@pytest.mark.parametrize(
    "text", ["", "a", "-1", "1 2", "1,2", "12_", "12+", "12.", "12_3+1", "_3", "1\n", "\uff11\uff12", "revoked"]
)
def test_what_is_no_id(text: str) -> None:
    assert JobId.find(text) is None
    with pytest.raises(SlurmOutputError, match="not the id of a job"):
        JobId.parse(text)


def test_order_is_that_of_the_numbers() -> None:
    texts = ["9", "9.2", "9.10", "10", "10_[3-9]", "10_2", "10_2.batch", "10_10", "11+0", "11+0.1", "11+2"]
    assert list(map(str, sorted(map(JobId.parse, reversed(texts))))) == texts


@given(st.lists(job_ids, max_size=6))
def test_order_is_total(ids: list[JobId]) -> None:
    backwards = ids[::-1]
    assert sorted(ids) == sorted(backwards)
    assert all(not a < b or not b < a for a in ids for b in ids)


def test_a_task_of_an_array() -> None:
    assert str(JobId(12).of_task(7)) == "12_7"
