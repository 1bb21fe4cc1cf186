"""What is kept and what is removed, as a table."""

from __future__ import annotations

import itertools

import pytest

from dagster_slurm.housekeeping.jobs_table import RunStanding
from dagster_slurm.housekeeping.leftovers import Facts, Terms, decide, decide_half_made
from dagster_slurm.housekeeping.listed_jobs import Fate

DAY = 86400.0
OLD, YOUNG = 4 * DAY, 2 * DAY
ENDED, COMPLETED, NOT_KNOWN, NONE = Fate.ENDED, Fate.COMPLETED, Fate.NOT_KNOWN, Fate.NONE
OVER, UNKNOWN, IN_PROGRESS, SUCCEEDED = (
    RunStanding.OVER,
    RunStanding.UNKNOWN,
    RunStanding.IN_PROGRESS,
    RunStanding.SUCCEEDED,
)
NOT_COLLECTED = "its result was never collected"
TO_RETRY = "; re-execute run R from failure, or --all"
TOO_YOUNG = "; younger than 3 d (--older-than)"
BUSY = "run R is in progress; if its processes have died, `dagster-slurm reconcile` finishes it"
LOST = "it is not known how its job ended, nor whether there is a result"


@pytest.mark.parametrize(
    ("run", "fate", "idle_seconds", "everything", "removed", "reason"),
    [
        # The step has succeeded: nobody needs it.
        (SUCCEEDED, COMPLETED, 0.0, False, True, "its step has succeeded"),
        (SUCCEEDED, ENDED, 0.0, False, True, "its step has succeeded"),
        (SUCCEEDED, NOT_KNOWN, 0.0, False, True, "its step has succeeded"),
        # Somebody works on it, or may.
        (IN_PROGRESS, COMPLETED, OLD, True, False, BUSY),
        (IN_PROGRESS, NONE, OLD, True, False, BUSY),
        # The run is over.
        (OVER, ENDED, YOUNG, False, False, f"run R is over, and its job ended without success{TOO_YOUNG}"),
        (OVER, ENDED, OLD, False, True, "run R is over, and its job ended without success"),
        (OVER, NONE, OLD, False, True, "run R is over, and it had no job"),
        (OVER, COMPLETED, OLD, False, False, f"{NOT_COLLECTED}{TO_RETRY}"),
        (OVER, COMPLETED, YOUNG, True, False, f"{NOT_COLLECTED}{TOO_YOUNG}"),
        (OVER, COMPLETED, OLD, True, True, f"{NOT_COLLECTED} (--all)"),
        (OVER, NOT_KNOWN, OLD, False, False, f"{LOST}{TO_RETRY}"),
        (OVER, NOT_KNOWN, OLD, True, True, f"{LOST} (--all)"),
        # Dagster does not know the run.
        (
            UNKNOWN,
            ENDED,
            OLD,
            False,
            False,
            "its job ended without success, and Dagster does not know run R; --all removes it",
        ),
        (
            UNKNOWN,
            ENDED,
            YOUNG,
            True,
            False,
            f"its job ended without success, and Dagster does not know run R{TOO_YOUNG}",
        ),
        (UNKNOWN, ENDED, OLD, True, True, "its job ended without success, and Dagster does not know run R (--all)"),
        (UNKNOWN, COMPLETED, OLD, False, False, f"{NOT_COLLECTED}; --all removes it"),
        (UNKNOWN, COMPLETED, OLD, True, True, f"{NOT_COLLECTED} (--all)"),
    ],
)
def test_decisions(
    run: RunStanding, fate: Fate, idle_seconds: float, everything: bool, removed: bool, reason: str
) -> None:
    facts = Facts(run=run, fate=fate, run_id="R", idle_seconds=idle_seconds)
    decision = decide(facts, Terms(everything=everything))
    assert (decision.removed, decision.reason) == (removed, reason)


def test_a_checkpoint_goes_with_all_alone() -> None:
    facts = Facts(run=OVER, has_checkpoint=True, run_id="R", idle_seconds=OLD)
    why = "its job has left a checkpoint, from which the next one goes on"
    assert decide(facts, Terms()).reason == f"{why}{TO_RETRY}"
    assert decide(facts, Terms(everything=True)).reason == f"{why} (--all)"
    assert decide(Facts(run=SUCCEEDED, has_checkpoint=True), Terms()).removed


def test_without_dagster_home_it_says_so() -> None:
    facts = Facts(run=UNKNOWN, run_id="R", idle_seconds=OLD)
    assert decide(facts, Terms(has_records=False)).reason == (
        "its job ended without success, and without DAGSTER_HOME nothing is known of run R; --all removes it"
    )


ANYTHING = [
    (Facts(run=run, fate=fate, run_id="R", idle_seconds=1e9), Terms(0.0, everything=everything))
    for run, fate, everything in itertools.product(RunStanding, Fate, (False, True))
]


@pytest.mark.parametrize(
    ("guard", "reason"),
    [
        ({"live_jobs": ("job 17 is SUSPENDED",)}, "job 17 is SUSPENDED"),
        ({"unreadable": "is of protocol version 9"}, "is of protocol version 9"),
        ({"is_uploading": True}, "something is being uploaded"),
    ],
)
def test_what_nothing_can_overrule(guard: dict[str, object], reason: str) -> None:
    for facts, terms in ANYTHING:
        guarded = Facts(**{**vars(facts), **guard})
        assert (decide(guarded, terms).removed, decide(guarded, terms).reason) == (False, reason)


def test_a_result_that_was_not_collected_goes_with_all_alone() -> None:
    for facts, terms in ANYTHING:
        if facts.fate is COMPLETED and facts.run is not SUCCEEDED and not terms.everything:
            assert not decide(facts, terms).removed


@pytest.mark.parametrize(("idle_seconds", "removed"), [(0.0, False), (DAY - 1, False), (DAY, True)])
def test_half_made(idle_seconds: float, removed: bool) -> None:
    assert decide_half_made(idle_seconds).removed is removed
