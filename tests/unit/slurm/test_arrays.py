"""Slurm's words about job arrays. The lines are those of squeue 22.05.8."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.slurm import arrays
from dagster_slurm.slurm.commands import SACCT_FIELDS
from dagster_slurm.slurm.output import parse_sacct, parse_squeue
from dagster_slurm.slurm.states import JobState

LINES = """\
1|1|3-9%3|PENDING|2026-11-22T09:50:04|N/A|JobArrayTaskLimit||wrap|/home/me
2|1|0|COMPLETED|2026-11-22T09:50:04|2026-11-22T09:50:04|None|n1|wrap|/home/me
3|1|1|RUNNING|2026-11-22T09:50:04|2026-11-22T09:50:04|None|n1|wrap|/home/me
40|40|N/A|RUNNING|2026-11-22T09:50:04|2026-11-22T09:50:04|None|n1|other|/home/me
"""


@pytest.mark.parametrize(
    ("count", "max_parallel", "option"),
    [(1, None, "0"), (10, None, "0-9"), (10, 3, "0-9%3"), (10, 10, "0-9"), (10, 50, "0-9"), (1, 1, "0")],
)
def test_option(count: int, max_parallel: int | None, option: str) -> None:
    assert arrays.array_option(count, max_parallel) == option


@pytest.mark.parametrize(
    ("expression", "tasks"),
    [
        ("7", [7]),
        ("3-5", [3, 4, 5]),
        ("1,3-4%2", [1, 3, 4]),
        ("0-8:4", [0, 4, 8]),
        ("41,43,4...%1", [41, 43]),
        ("N/A", []),
        ("", []),
    ],
)
def test_tasks(expression: str, tasks: list[int]) -> None:
    assert list(chain.from_iterable(arrays.tasks_of(expression))) == tasks


@given(st.integers(1, 2000), st.none() | st.integers(1, 100))
def test_tasks_of_an_option(count: int, max_parallel: int | None) -> None:
    (tasks,) = arrays.tasks_of(arrays.array_option(count, max_parallel))
    assert tasks == range(count)


def test_tasks_that_wait_together_share_a_line() -> None:
    found = arrays.entries_of(parse_squeue(LINES), ["1_0", "1_1", "1_3", "1_9", "1_10", "40"])
    assert {job_id: entry.state for job_id, entry in found.items()} == {
        "1_0": JobState.COMPLETED,
        "1_1": JobState.RUNNING,
        "1_3": JobState.PENDING,
        "1_9": JobState.PENDING,
        "40": JobState.RUNNING,
    }


def test_an_array_lives_as_long_as_one_of_its_tasks() -> None:
    entries = parse_squeue(LINES)
    assert arrays.entries_of(entries, ["1"])["1"].state is JobState.RUNNING
    ended = [entry for entry in entries if entry.state is JobState.COMPLETED]
    assert arrays.entries_of(ended, ["1"])["1"].state is JobState.COMPLETED


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        (["COMPLETED", "RUNNING", "FAILED"], JobState.RUNNING),
        (["COMPLETED", "FAILED"], JobState.FAILED),
        (["COMPLETED", "COMPLETED"], JobState.COMPLETED),
    ],
)
def test_an_array_as_a_whole_in_the_accounting(states: list[str], whole: JobState) -> None:
    width = len(SACCT_FIELDS)
    rows = [[f"7_{task}", str(70 + task), state, *[""] * (width - 3)] for task, state in enumerate(states)]
    records = parse_sacct("\n".join("|".join(row) for row in rows))
    assert arrays.records_of(records, ["7"])["7"].state is whole
    assert "7" not in arrays.records_of(records, ["7_0"])


def test_the_number_of_a_task_is_no_job_of_its_own() -> None:
    assert arrays.entries_of(parse_squeue(LINES), ["2", "3"]) == {}


def test_a_tally_of_tasks() -> None:
    """Those that hold nodes, then those that wait, then the ended; what squeue has forgotten is as sacct has it."""
    entries = [each for each in parse_squeue(LINES) if each.array_job_id == "1"]
    assert list(arrays.tally(entries, ()).items()) == [
        (JobState.RUNNING, 1),
        (JobState.PENDING, 7),
        (JobState.COMPLETED, 1),
    ]
    empty = "|" * (len(SACCT_FIELDS) - 3)
    records = parse_sacct(
        "".join(f"1_{task}|{task}|{state}{empty}\n" for task, state in ((2, "FAILED"), (0, "TIMEOUT")))
    )
    assert arrays.tally(entries, records.values())[JobState.FAILED] == 1
    assert JobState.TIMEOUT not in arrays.tally(entries, records.values())
    assert arrays.tally([], ()) == {}
