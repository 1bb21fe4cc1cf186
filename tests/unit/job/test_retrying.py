"""What the next attempt asks for, and whether there is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.job.retrying import (
    Chain,
    Outcome,
    RetryRules,
    decide_next,
    next_request,
    outcomes_from_json,
    outcomes_to_json,
)
from dagster_slurm.slurm.request import JobRequest, merge
from dagster_slurm.slurm.states import JobState as S

REQUEST = merge({"mem": "1G", "time_limit": "00:10:00"})
RULES = RetryRules(max_retries=3, max_mem_mib=3000, max_time_limit_seconds=1800)
OOM, TIME, PREEMPTED = Outcome(S.OUT_OF_MEMORY), Outcome(S.TIMEOUT), Outcome(S.PREEMPTED)
NODE, FAILED, GOES_ON = Outcome(S.NODE_FAIL, None, "n1"), Outcome(S.FAILED, 1), Outcome(S.FAILED, 85)
CHAIN = Chain(85, 2)

DECISIONS = [
    ("a failing payload", [FAILED], RULES, False, "this kind of end is not retried"),
    ("somebody cancelled it", [Outcome(S.CANCELLED)], RULES, False, "this kind of end is not retried"),
    ("no rules", [OOM], None, False, "this kind of end is not retried"),
    ("memory", [OOM], RULES, True, "over its memory; the next attempt has 2048M"),
    ("memory, up to the bound", [OOM, OOM], RULES, True, "over its memory; the next attempt has 3000M"),
    ("memory, at the bound", [OOM, OOM, OOM], RULES, False, "its memory cannot be raised any further"),
    ("walltime", [TIME], RULES, True, "over its walltime; the next attempt has 00:20:00"),
    ("walltime, at the bound", [TIME, TIME, TIME], RULES, False, "its walltime cannot be raised any further"),
    ("preempted", [PREEMPTED], RULES, True, "PREEMPTED; the next attempt is the same"),
    ("no end line", [Outcome(S.COMPLETED)], RULES, True, "COMPLETED; the next attempt is the same"),
    ("a node", [NODE], RULES, True, "NODE_FAIL; the next attempt leaves out n1"),
    ("too often", [PREEMPTED] * 4, RULES, False, "it was retried 3 times already"),
    ("not too often: continuations do not count", [GOES_ON, PREEMPTED] * 2 + [PREEMPTED], RULES, True, "is the same"),
    ("goes on", [GOES_ON], None, True, "its payload is not done and goes on from its checkpoint"),
    ("goes on for too long", [GOES_ON] * 3, None, False, "it has gone on 2 times already"),
    ("another exit code", [Outcome(S.FAILED, 84)], None, False, "this kind of end is not retried"),
]


@pytest.mark.parametrize(
    ("outcomes", "rules", "again", "reason"), [row[1:] for row in DECISIONS], ids=[row[0] for row in DECISIONS]
)
def test_decisions(outcomes: list[Outcome], rules: RetryRules | None, again: bool, reason: str) -> None:
    decided = decide_next(REQUEST, outcomes, rules, CHAIN)
    assert decided.again is again
    assert reason in decided.reason


REQUESTS = [
    ("nothing before", [], {}),
    ("memory", [OOM], {"mem_mib": 2048}),
    ("memory, bounded", [OOM, OOM, OOM], {"mem_mib": 3000}),
    ("walltime", [TIME, TIME], {"time_limit_seconds": 1800}),
    ("both, in any order", [TIME, OOM], {"time_limit_seconds": 1200, "mem_mib": 2048}),
    ("nodes", [NODE, Outcome(S.BOOT_FAIL, None, "n[2-3]")], {"options": {"exclude": "n1,n[2-3]"}}),
    ("what changes nothing", [FAILED, PREEMPTED, GOES_ON], {}),
]


@pytest.mark.parametrize(("outcomes", "changed"), [row[1:] for row in REQUESTS], ids=[row[0] for row in REQUESTS])
def test_requests(outcomes: list[Outcome], changed: dict[str, object]) -> None:
    expected = {name: getattr(REQUEST, name) for name in ("mem_mib", "time_limit_seconds", "options")} | changed
    request = next_request(REQUEST, outcomes, RULES)
    assert {name: getattr(request, name) for name in expected} == expected


def test_memory_for_each_cpu_is_raised_as_such() -> None:
    request = next_request(merge({"mem_per_cpu": "100M"}), [OOM], RetryRules())
    assert (request.mem_mib, request.mem_per_cpu_mib) == (None, 200)


@pytest.mark.parametrize("options", [{"mem": "0"}, {}], ids=["all memory of the node", "the site's default"])
def test_memory_that_cannot_be_raised_is_not_tried_again(options: dict[str, object]) -> None:
    request = merge(options)
    assert not decide_next(request, [OOM], RetryRules(), Chain()).again
    assert next_request(request, [OOM], RetryRules()) == request


outcomes = st.lists(
    st.builds(Outcome, st.sampled_from(list(S)), st.none() | st.integers(0, 255), st.none() | st.just("n1")),
    max_size=9,
)


@given(outcomes)
def test_outcomes_survive_their_file(found: list[Outcome]) -> None:
    of_elements: dict[int | None, Outcome] = dict(enumerate(found))
    assert outcomes_from_json(outcomes_to_json(of_elements)) == of_elements
    for outcome in found:
        assert outcomes_from_json(outcomes_to_json({None: outcome})) == {None: outcome}


def test_those_of_a_thousand_tasks_are_short() -> None:
    alike: dict[int | None, Outcome] = dict.fromkeys(range(1000), Outcome(S.OUT_OF_MEMORY, 137, "n1"))
    assert len(outcomes_to_json(alike)) < 6000


@given(
    st.text(max_size=30) | st.sampled_from(['{"elements": 1}', '{"elements": [[{}, [1]]]}', "[1]", "null", "[" * 9999])
)
def test_what_is_no_outcome_is_none(text: str) -> None:
    assert outcomes_from_json(text) == {}


@given(outcomes)
def test_bounds_hold_whatever_happened(found: list[Outcome]) -> None:
    request: JobRequest = next_request(REQUEST, found, RULES)
    assert 1024 <= (request.mem_mib or 0) <= 3000
    assert 600 <= (request.time_limit_seconds or 0) <= 1800
