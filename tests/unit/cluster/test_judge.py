"""The one decision, as a table over what was seen, and what must hold whatever was seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.cluster.status_file import EndMark
from dagster_slurm.job.lifecycle import Absence, Action, Decision, Observation, Patience, decide
from dagster_slurm.slurm.states import JobState

PATIENCE = Patience(accounting_seconds=20, logs_seconds=10, unknown_seconds=3600)
S = JobState
NOT_KNOWN, GONE = Absence.NOT_KNOWN, Absence.GONE
WAIT, ASK_QUEUE, ASK_ACCOUNTING = Decision(Action.WAIT), Decision(Action.ASK_QUEUE), Decision(Action.ASK_ACCOUNTING)
GIVE_UP = Decision(Action.GIVE_UP)


def mark(code: int = 0, restart: int = 0) -> EndMark:
    return EndMark("1", restart, code, 0.0, {"stdout": 0, "stderr": 0, "messages": 0})


def finish(state: JobState) -> Decision:
    return Decision(Action.FINISH, state)


TABLE: list[tuple[str, Observation, Decision]] = [
    # Nothing says that it is over.
    ("nothing known", Observation(), WAIT),
    ("pending", Observation(queue=S.PENDING), WAIT),
    ("running", Observation(queue=S.RUNNING), WAIT),
    ("completing", Observation(queue=S.COMPLETING), WAIT),
    ("suspended", Observation(queue=S.SUSPENDED), WAIT),
    ("requeued", Observation(queue=S.REQUEUED), WAIT),
    ("special exit waits", Observation(queue=S.SPECIAL_EXIT), WAIT),
    ("accounting says running", Observation(accounting=S.RUNNING), WAIT),
    ("accounting does not know it", Observation(accounting=GONE), WAIT),
    ("logs missing, running", Observation(queue=S.RUNNING, logs_complete=False), WAIT),
    # An end line alone asks, and believes nothing.
    ("end line of a failure", Observation(end_mark=mark(7)), ASK_QUEUE),
    ("end line of a failure, still running", Observation(end_mark=mark(7), queue=S.RUNNING), ASK_QUEUE),
    ("end line, completing", Observation(end_mark=mark(), queue=S.COMPLETING, ending_seconds=3), ASK_QUEUE),
    ("end line of a requeue", Observation(end_mark=mark(143), queue=S.PENDING), ASK_QUEUE),
    # Of a good one sacct may know that it is one, which costs the controller nothing.
    ("good end line", Observation(end_mark=mark(), queue=S.RUNNING), ASK_ACCOUNTING),
    ("good end line, accounting lags", Observation(mark(), accounting=S.RUNNING, ending_seconds=1), ASK_ACCOUNTING),
    ("good end line, accounting lags long", Observation(mark(), S.RUNNING, S.RUNNING, ending_seconds=3.0), ASK_QUEUE),
    ("good end line after a requeue", Observation(end_mark=mark(restart=1)), ASK_QUEUE),
    # Over, but the last bytes are still to come.
    ("gone, logs to come", Observation(mark(), GONE, logs_complete=False, over_seconds=9), WAIT),
    ("accounted, logs to come", Observation(mark(), GONE, S.COMPLETED, logs_complete=False, over_seconds=9), WAIT),
    ("logs never come", Observation(mark(), GONE, S.COMPLETED, False, 10), finish(S.COMPLETED)),
    ("logs never come, not accounted", Observation(mark(), GONE, NOT_KNOWN, False, 10), ASK_ACCOUNTING),
    # sacct is the witness of the end.
    ("accounted", Observation(mark(), GONE, S.COMPLETED), finish(S.COMPLETED)),
    ("accounted, never asked the queue", Observation(accounting=S.TIMEOUT), finish(S.TIMEOUT)),
    ("accounting wins over the queue", Observation(None, S.FAILED, S.OUT_OF_MEMORY), finish(S.OUT_OF_MEMORY)),
    ("accounting wins over the end line", Observation(mark(0), GONE, S.CANCELLED), finish(S.CANCELLED)),
    ("accounted failed though 0", Observation(mark(0), GONE, S.FAILED), finish(S.FAILED)),
    ("no end line, accounted", Observation(None, GONE, S.NODE_FAIL), finish(S.NODE_FAIL)),
    # sacct lags.
    ("queue ended, ask", Observation(None, S.FAILED, over_seconds=19), ASK_ACCOUNTING),
    ("queue ended, accounting lags", Observation(None, S.FAILED, S.RUNNING, over_seconds=19), ASK_ACCOUNTING),
    ("queue ended, patience over", Observation(None, S.FAILED, over_seconds=20), finish(S.FAILED)),
    ("queue completed, patience over", Observation(None, S.COMPLETED, over_seconds=20), finish(S.COMPLETED)),
    ("gone with end line, ask", Observation(mark(), GONE, over_seconds=19), ASK_ACCOUNTING),
    ("gone with end line 0, patience over", Observation(mark(0), GONE, over_seconds=20), finish(S.COMPLETED)),
    ("gone with end line 7, patience over", Observation(mark(7), GONE, over_seconds=20), finish(S.FAILED)),
    ("sacct stays at running", Observation(mark(7), GONE, S.RUNNING, over_seconds=20), finish(S.FAILED)),
    # No accounting at all: no patience for it.
    ("off, queue ended", Observation(None, S.FAILED, accounting_off=True), finish(S.FAILED)),
    ("off, gone with end line", Observation(mark(), GONE, accounting_off=True), finish(S.COMPLETED)),
    ("off, the queue wins over the end line", Observation(mark(0), S.TIMEOUT, accounting_off=True), finish(S.TIMEOUT)),
    ("off, still running", Observation(mark(), S.RUNNING, accounting_off=True), ASK_QUEUE),
    # No witness at all.
    ("gone, nothing else", Observation(queue=GONE, over_seconds=3599), ASK_ACCOUNTING),
    ("gone, nothing else, off", Observation(queue=GONE, over_seconds=119, accounting_off=True), ASK_ACCOUNTING),
    # Its batch script would have written an end line, had it not been killed.
    ("gone, nothing else, off, long", Observation(queue=GONE, over_seconds=120, accounting_off=True), finish(S.FAILED)),
    ("gone, accounting says running", Observation(None, GONE, S.RUNNING, over_seconds=3599), ASK_ACCOUNTING),
    ("gone for good", Observation(queue=GONE, over_seconds=3600), GIVE_UP),
    ("gone for good, accounting empty", Observation(None, GONE, GONE, over_seconds=3600), GIVE_UP),
]


@pytest.mark.parametrize(("seen", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_table(seen: Observation, expected: Decision) -> None:
    assert decide(seen, PATIENCE) == expected


@pytest.mark.parametrize("state", [state for state in JobState if state.is_terminal])
def test_every_end_that_sacct_tells_is_that_end(state: JobState) -> None:
    assert decide(Observation(queue=GONE, accounting=state), PATIENCE) == finish(state)


@pytest.mark.parametrize("state", [state for state in JobState if not state.is_terminal])
def test_no_other_state_is_an_end(state: JobState) -> None:
    for seen in (Observation(queue=state, over_seconds=1e9), Observation(accounting=state, over_seconds=1e9)):
        assert decide(seen, PATIENCE).action is Action.WAIT


marks = st.none() | st.integers(0, 255).map(mark)
wordless = st.sampled_from(list(Absence))
anything = wordless | st.sampled_from(list(JobState))
observations = st.builds(
    Observation, marks, anything, anything, st.booleans(), st.floats(0, 1e9), accounting_off=st.booleans()
)


@given(observations)
def test_a_state_is_told_at_the_end_and_only_there(seen: Observation) -> None:
    decision = decide(seen, PATIENCE)
    assert (decision.state is not None) == (decision.action is Action.FINISH)
    assert decision.state is None or decision.state.is_terminal


@given(
    marks, st.sampled_from([NOT_KNOWN, *(s for s in JobState if not s.is_terminal)]), st.booleans(), st.floats(0, 1e9)
)
def test_no_answer_alone_never_ends_anything(
    end_mark: EndMark | None, queue: JobState | Absence, logs: bool, over_seconds: float
) -> None:
    for accounting in (NOT_KNOWN, GONE, S.RUNNING, S.PENDING):
        seen = Observation(end_mark, queue, accounting, logs, over_seconds)
        assert decide(seen, PATIENCE).action in (Action.WAIT, Action.ASK_QUEUE, Action.ASK_ACCOUNTING)


@given(observations)
def test_silence_is_never_success(seen: Observation) -> None:
    decision = decide(seen, PATIENCE)
    if decision.state is not None and decision.state.is_success:
        witness = seen.end_mark is not None and seen.end_mark.exit_code == 0 and seen.queue is GONE
        assert witness or S.COMPLETED in (seen.queue, seen.accounting)


@given(observations)
def test_a_failure_that_a_witness_told_is_never_success(seen: Observation) -> None:
    told = [word for word in (seen.accounting, seen.queue) if isinstance(word, JobState) and word.is_terminal]
    decision = decide(seen, PATIENCE)
    if told and decision.action is Action.FINISH:
        assert decision.state is told[0]


@given(observations, st.floats(0, 1e9))
def test_waiting_longer_never_turns_an_end_back(seen: Observation, more: float) -> None:
    later = Observation(
        seen.end_mark,
        seen.queue,
        seen.accounting,
        seen.logs_complete,
        seen.over_seconds + more,
        accounting_off=seen.accounting_off,
    )
    if decide(seen, PATIENCE).action in (Action.FINISH, Action.GIVE_UP):
        assert decide(later, PATIENCE) == decide(seen, PATIENCE)
