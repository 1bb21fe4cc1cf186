"""Whether a run is orphaned, how it ends, and which run retries it."""

from __future__ import annotations

import uuid

import pytest
from dagster import DagsterRunStatus
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.process_identity import Life
from dagster_slurm.reconcile.decision import IN_PROGRESS, Ending, Verdict, ending_of, verdict_of
from dagster_slurm.reconcile.start import retry_run_id

ALIVE, GONE, UNKNOWN = Life.ALIVE, Life.GONE, Life.UNKNOWN


@pytest.mark.parametrize(
    ("lives", "children_may_live", "expected"),
    [
        ([], False, Verdict.NOT_LEASED),
        ([], True, Verdict.NOT_LEASED),
        ([GONE], False, Verdict.ORPHANED),
        ([GONE, GONE], False, Verdict.ORPHANED),
        ([GONE, GONE], True, Verdict.RUNNING),  # a step that needs no cluster is still at work
        ([ALIVE], False, Verdict.RUNNING),
        ([GONE, ALIVE], False, Verdict.RUNNING),  # the executor died, its child lives
        ([ALIVE, UNKNOWN], False, Verdict.RUNNING),
        ([UNKNOWN], False, Verdict.ELSEWHERE),
        ([GONE, UNKNOWN], False, Verdict.ELSEWHERE),
        ([GONE, UNKNOWN], True, Verdict.ELSEWHERE),
    ],
)
def test_verdict(lives: list[Life], children_may_live: bool, expected: Verdict) -> None:
    assert verdict_of(lives, children_may_live=children_may_live) is expected
    assert verdict_of(lives[::-1], children_may_live=children_may_live) is expected


@given(st.lists(st.sampled_from(Life)), st.booleans())
def test_orphaned_only_if_every_process_is_known_to_be_gone(lives: list[Life], children_may_live: bool) -> None:
    if verdict_of(lives, children_may_live=children_may_live) is Verdict.ORPHANED:
        assert set(lives) == {GONE}
        assert not children_may_live


@pytest.mark.parametrize("status", IN_PROGRESS)
@pytest.mark.parametrize("steps_left", [None, [], ["a"]])
def test_ending(status: DagsterRunStatus, steps_left: list[str] | None) -> None:
    if status is DagsterRunStatus.CANCELING:
        expected = Ending.CANCELED
    elif steps_left == []:
        expected = Ending.SUCCEEDED
    else:
        expected = Ending.FAILED
    assert ending_of(status, steps_left) is expected


def test_the_retry_of_a_run_has_one_id() -> None:
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    assert retry_run_id(first) == retry_run_id(first) != retry_run_id(second)
    # It never changes between releases: two of them may be at work at once.
    assert retry_run_id("4c9a2b52-7a0e-4d0b-9f0a-5a1f5f2d3c71") == "1131b34d-d103-5ff2-805e-ef29d02a8a72"
