"""What a next job could ask for: said where it is worth it, and never too little."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.slurm.advice import (
    LEAST_RUNS,
    LEAST_SECONDS,
    Use,
    advice,
    is_worth_asking,
    round_limit_seconds,
    round_memory_mib,
)
from dagster_slurm.slurm.request import JobRequest, merge

USE = Use(elapsed_seconds=600.0, cpus=1.04, memory_mib=1126.4)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"mem": "16G"}, 'Used at most 1.1 of 16 GiB in the last 12 runs: mem="2G" would do'),
        ({"cpus_per_task": 8}, "Used at most 1.0 of 8 CPUs in the last 12 runs: cpus_per_task=1 would do"),
        (
            {"mem": "16G", "cpus": 8, "time_limit": "1-00:00:00"},
            "Used at most 1.1 of 16 GiB and 1.0 of 8 CPUs and 10 min of 24 h in the last 12 runs: "
            'mem="2G", cpus_per_task=1, time_limit="00:30:00" would do',
        ),
        # What is asked for where nothing is said.
        ({"mem": "4096M", "cpus": 2, "time_limit": "00:30:00"}, ""),
        ({"mem": "4G"}, ""),
        ({"mem": "6G"}, 'Used at most 1.1 of 6 GiB in the last 12 runs: mem="2G" would do'),
        ({"cpus": 3}, "Used at most 1.0 of 3 CPUs in the last 12 runs: cpus_per_task=1 would do"),
        ({"time_limit": "02:00:00"}, 'Used at most 10 min of 2 h in the last 12 runs: time_limit="00:30:00" would do'),
        ({"time_limit": "01:00:00"}, ""),
        ({"time_limit": "UNLIMITED"}, ""),
        # All memory of a node; of several nodes one tells; CPUs that are there for the sake of something else.
        ({"mem": 0}, ""),
        ({"mem": "16G", "nodes": 2}, ""),
        ({"cpus": 8, "mem_per_cpu": "2G"}, ""),
        ({"cpus": 8, "ntasks": 4}, ""),
        ({}, ""),
    ],
)
def test_of_a_dozen_runs(asked: Mapping[str, object], said: str) -> None:
    assert advice(merge(asked), [USE] * 12) == said


LARGE = merge({"mem": "64G", "cpus": 32})


@pytest.mark.parametrize(
    ("uses", "said"),
    [
        ([USE] * (LEAST_RUNS - 1), ""),
        ([], ""),
        ([replace(USE, elapsed_seconds=1.0)] * 12, ""),
        ([USE, USE, replace(USE, elapsed_seconds=None)], ""),
        # The largest counts, and a figure that is missing once counts for nothing.
        ([USE, USE, replace(USE, memory_mib=50000.0)], "Used at most 1.0 of 32 CPUs in the last 3 runs"),
        ([USE, USE, replace(USE, cpus=None)], "Used at most 1.1 of 64 GiB in the last 3 runs"),
        ([USE, USE, replace(USE, cpus=15.5)], "Used at most 1.1 of 64 GiB and 15.5 of 32 CPUs in the last 3 runs"),
        ([USE, USE, USE, replace(USE, elapsed_seconds=2.0, cpus=31.0)], "Used at most 1.1 of 64 GiB and 1.0 of 32"),
    ],
)
def test_what_is_unsure_is_not_said(uses: list[Use], said: str) -> None:
    found = advice(LARGE, uses)
    assert found.startswith(said) and bool(found) is bool(said)


def test_partitions_of_one_range() -> None:
    said = advice(LARGE, [USE] * 1000, of="{} partitions")
    assert (
        said == 'Used at most 1.1 of 64 GiB and 1.0 of 32 CPUs in 1000 partitions: mem="2G", cpus_per_task=1 would do'
    )


FIGURES = st.none() | st.floats(0, 1e6)
USES = st.lists(st.builds(Use, FIGURES, FIGURES, FIGURES), max_size=14)
REQUESTS = st.builds(
    JobRequest,
    nodes=st.integers(1, 2),
    cpus_per_task=st.none() | st.integers(1, 512),
    mem_mib=st.none() | st.integers(0, 1 << 21),
    time_limit_seconds=st.none() | st.integers(1, 10**7),
)


@given(request=REQUESTS, uses=USES)
def test_what_is_advised_is_more_than_was_used_and_less_than_was_asked(request: JobRequest, uses: list[Use]) -> None:
    said = advice(request, uses)
    counted = [use for use in uses if (use.elapsed_seconds or 0) >= LEAST_SECONDS]
    if not said:
        return
    assert request.nodes == 1 and len(counted) >= LEAST_RUNS and "\n" not in said
    for size, unit in re.findall(r'mem="(\d+)([MG])"', said):
        mib = int(size) * (1024 if unit == "G" else 1)
        assert 1.25 * max(use.memory_mib or 0 for use in counted) <= mib <= (request.mem_mib or 0) / 2
    for cpus in map(int, re.findall(r"cpus_per_task=(\d+)", said)):
        assert max(use.cpus or 0 for use in counted) - 0.2 <= cpus <= (request.cpus_per_task or 0) / 2
    merge({name: value.strip('"') for name, value in re.findall(r"(\w+)=(\"[^\"]+\"|\d+)", said)})


@given(request=REQUESTS, use=st.builds(Use, FIGURES, FIGURES, FIGURES), others=USES)
def test_nothing_is_asked_where_this_run_leaves_nothing_to_say(
    request: JobRequest, use: Use, others: list[Use]
) -> None:
    """Other runs can take from what this one makes worth saying, and add nothing."""
    if not is_worth_asking(request, use) and (use.elapsed_seconds or 0) >= LEAST_SECONDS:
        assert advice(request, [use, *others]) == ""


@given(st.floats(0, 1e9))
def test_sizes_that_a_person_would_write(figure: float) -> None:
    assert figure <= round_memory_mib(figure) <= max(256, 2 * figure)
    assert figure <= round_limit_seconds(figure) <= max(900, 2 * figure)


def test_sizes() -> None:
    sizes = [round_memory_mib(gib * 1024) for gib in (0, 0.2, 0.3, 1, 1.1, 2.1, 3.1, 4.1, 6.1, 9, 13, 17, 100)]
    assert [size / 1024 for size in sizes] == [0.25, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 128]


@pytest.mark.parametrize(
    ("metadata", "use"),
    [
        ({"elapsed_seconds": 5, "max_cpus_used": 1.5, "max_memory_mb": 20.25, "rows": 3}, Use(5.0, 1.5, 20.25)),
        ({}, Use()),
        ({"elapsed_seconds": "5", "max_cpus_used": True, "max_memory_mb": float("nan")}, Use()),
        ({"elapsed_seconds": -1, "max_cpus_used": None, "max_memory_mb": float("inf")}, Use()),
    ],
)
def test_what_a_materialisation_tells(metadata: Mapping[str, object], use: Use) -> None:
    assert Use.of(metadata) == use
