"""The judge's table, row by row, and what must hold whatever was seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import judge_table

from dagster_slurm.cluster.description import EndMark, NodeEnd
from dagster_slurm.cluster.judge import TABLE, Action, Patience, Silence, Witnesses, judge
from dagster_slurm.slurm.efficiency import Figures
from dagster_slurm.slurm.states import JobState

PATIENCE = Patience(accounting_seconds=20, logs_seconds=10, unknown_seconds=3600, silent_seconds=120, prompt_seconds=3)
S = JobState
NOT_KNOWN, GONE, NOT_OURS = Silence.NOT_KNOWN, Silence.GONE, Silence.NOT_OURS
NONE_KEPT, REFUSED = Silence.NONE_KEPT, Silence.REFUSED
WAIT, ASK_QUEUE, ASK_ACCOUNTING, GIVE_UP = Action.WAIT, Action.ASK_QUEUE, Action.ASK_ACCOUNTING, Action.GIVE_UP


NODES = (NodeEnd("n1", "stopped"), NodeEnd("n2", "lost"))


def mark(code: int = 0, restart: int = 0, nodes: tuple[NodeEnd, ...] = ()) -> EndMark:
    return EndMark("1", restart, code, 0.0, {"stdout": 0, "stderr": 0, "messages": 0}, nodes)


GOOD = Figures(nodes=1, killed=0)


def proof(figures: Figures = GOOD, nodes: tuple[NodeEnd, ...] = ()) -> EndMark:
    return replace(mark(nodes=nodes), figures=figures)


# What keeps a good end line from being believed at once.
NO_PROOFS = [
    mark(),
    proof(replace(GOOD, told="TERM")),
    proof(replace(GOOD, killed=1)),
    proof(replace(GOOD, killed=None)),
    proof(replace(GOOD, nodes=2)),
    proof(replace(GOOD, nodes=2), NODES),
]


def gone(*, end: EndMark | None = None, for_seconds: float = 0.0, said: JobState | Silence = NOT_KNOWN) -> Witnesses:
    return Witnesses(end, GONE, said, over_seconds=for_seconds)


# By row of the table: what is seen, and what follows, which is an action or the state at the end.
CASES: dict[str, list[tuple[Witnesses, Action | JobState]]] = {
    "no witness of an end": [
        (Witnesses(), WAIT),
        *((Witnesses(queue=state), WAIT) for state in S if not state.is_terminal),
        (Witnesses(queue=NOT_OURS), WAIT),
        (Witnesses(accounting=S.RUNNING), WAIT),
        (Witnesses(accounting=GONE), WAIT),
        (Witnesses(accounting=NOT_OURS), WAIT),
        (Witnesses(accounting=REFUSED), WAIT),
        (Witnesses(queue=S.RUNNING, logs_complete=False), WAIT),
    ],
    "a good end line, with lines to be read": [
        (Witnesses(proof(), S.RUNNING, logs_complete=False, ending_seconds=9), WAIT),
        (Witnesses(proof(), GONE, S.COMPLETED, logs_complete=False, over_seconds=11), WAIT),
    ],
    # Whatever squeue said before: nobody need be asked.
    "a good end line that leaves nothing to ask": [
        *((Witnesses(proof(), state), S.COMPLETED) for state in S if not state.is_terminal),
        *((Witnesses(proof(), silence), S.COMPLETED) for silence in (NOT_KNOWN, GONE, NOT_OURS)),
        *((Witnesses(proof(), S.RUNNING, silence), S.COMPLETED) for silence in Silence),
        (Witnesses(proof(), S.COMPLETED), S.COMPLETED),
        (Witnesses(proof(), GONE, S.COMPLETED, over_seconds=1), S.COMPLETED),
        (Witnesses(proof(), GONE, S.RUNNING, over_seconds=1), S.COMPLETED),
        (Witnesses(proof(replace(GOOD, nodes=2), NODES[:1] * 2), S.RUNNING), S.COMPLETED),
        # Who wants what only sacct has waits for it no longer than for the end of others.
        (Witnesses(proof(), S.RUNNING, ending_seconds=20, needs_accounting=True), S.COMPLETED),
        (Witnesses(proof(), S.RUNNING, NONE_KEPT, needs_accounting=True), S.COMPLETED),
        (Witnesses(proof(), S.RUNNING, REFUSED, needs_accounting=True), S.COMPLETED),
    ],
    # It costs the controller nothing.
    "a good end line, not accounted yet": [
        (Witnesses(mark(), S.RUNNING), ASK_ACCOUNTING),
        (Witnesses(mark(), NOT_OURS, NOT_OURS), ASK_ACCOUNTING),
        (Witnesses(mark(), accounting=S.RUNNING, ending_seconds=1), ASK_ACCOUNTING),
        *((Witnesses(end, S.RUNNING), ASK_ACCOUNTING) for end in NO_PROOFS),
        (Witnesses(proof(), S.RUNNING, needs_accounting=True), ASK_ACCOUNTING),
    ],
    "a good end line, and Slurm names another's job": [
        (Witnesses(mark(), NOT_OURS, NOT_OURS, ending_seconds=20), S.COMPLETED),
        (Witnesses(mark(), NOT_OURS, REFUSED, ending_seconds=20), S.COMPLETED),
    ],
    "an end line, and Slurm names another's job for long": [
        (Witnesses(mark(7), NOT_OURS, NOT_OURS, ending_seconds=3600), GIVE_UP),
    ],
    # It alone asks, and believes nothing: a requeue writes one, too.
    "an end line, still in the queue": [
        (Witnesses(mark(7)), ASK_QUEUE),
        (Witnesses(mark(7), S.RUNNING), ASK_QUEUE),
        (Witnesses(mark(7), NOT_OURS, ending_seconds=3599), ASK_QUEUE),
        (Witnesses(mark(143), S.PENDING), ASK_QUEUE),
        (Witnesses(mark(), S.COMPLETING, ending_seconds=3), ASK_QUEUE),
        (Witnesses(mark(), S.RUNNING, S.RUNNING, ending_seconds=3), ASK_QUEUE),
        (Witnesses(mark(), S.RUNNING, NONE_KEPT), ASK_QUEUE),
        (Witnesses(mark(), S.RUNNING, REFUSED), ASK_QUEUE),
        (Witnesses(mark(restart=1)), ASK_QUEUE),
        # Of two starts of one incarnation the other may run.
        (Witnesses(mark(), S.RUNNING, starts=2), ASK_QUEUE),
        (Witnesses(proof(), S.RUNNING, starts=2), ASK_QUEUE),
        (Witnesses(replace(proof(), restart=1), S.RUNNING), ASK_QUEUE),
        (Witnesses(proof(), S.RUNNING, ending_seconds=19, needs_accounting=True), ASK_QUEUE),
        # What was cut off is not there for ever.
        (Witnesses(proof(), S.RUNNING, logs_complete=False, ending_seconds=10), ASK_QUEUE),
    ],
    "over, with lines to be read": [
        (Witnesses(mark(), GONE, logs_complete=False, over_seconds=9), WAIT),
        (Witnesses(mark(), GONE, S.COMPLETED, logs_complete=False, over_seconds=9), WAIT),
        (Witnesses(None, GONE, S.FAILED, logs_complete=False, over_seconds=9), WAIT),
    ],
    "COMPLETED, and its end line has another exit code": [
        # So Slurm calls a job with --no-kill that has lost a node, and ranks with it.
        (gone(end=mark(74, nodes=NODES), said=S.COMPLETED), S.FAILED),
        (gone(end=mark(7), said=S.COMPLETED), S.FAILED),
        (Witnesses(mark(7), S.COMPLETED, REFUSED), S.FAILED),
    ],
    "COMPLETED, and no end line is seen": [
        (gone(said=S.COMPLETED), WAIT),
        (gone(said=S.COMPLETED, for_seconds=119), WAIT),
        (Witnesses(queue=S.COMPLETED, over_seconds=119), WAIT),
        (Witnesses(queue=S.COMPLETED, accounting=NONE_KEPT, over_seconds=119), WAIT),
    ],
    "FAILED, and neither an end line nor sacct tells more": [
        (Witnesses(None, S.FAILED, NONE_KEPT), WAIT),
        (Witnesses(None, S.FAILED, REFUSED, over_seconds=119), WAIT),
    ],
    "over, not accounted yet": [
        (Witnesses(None, S.FAILED, over_seconds=19), ASK_ACCOUNTING),
        (Witnesses(None, S.FAILED, S.RUNNING, over_seconds=19), ASK_ACCOUNTING),
        (Witnesses(mark(nodes=NODES), S.NODE_FAIL, over_seconds=19), ASK_ACCOUNTING),
        (gone(end=mark(), for_seconds=19), ASK_ACCOUNTING),
        (gone(end=mark(), for_seconds=19, said=NOT_OURS), ASK_ACCOUNTING),
        (Witnesses(mark(), GONE, logs_complete=False, over_seconds=10), ASK_ACCOUNTING),
        *((gone(end=end, for_seconds=19), ASK_ACCOUNTING) for end in NO_PROOFS),
        (Witnesses(proof(), S.TIMEOUT, over_seconds=19), ASK_ACCOUNTING),
    ],
    "trouble of a node that the payload has outlived": [
        (gone(end=mark(nodes=NODES), said=S.NODE_FAIL), S.COMPLETED),
        (gone(end=mark(nodes=NODES), said=S.OUT_OF_MEMORY), S.COMPLETED),
        (Witnesses(mark(nodes=NODES), S.OUT_OF_MEMORY, NONE_KEPT), S.COMPLETED),
        (Witnesses(mark(nodes=NODES), S.NODE_FAIL, REFUSED, over_seconds=20), S.COMPLETED),
    ],
    "accounted": [
        # A launcher that does not look, and a payload or rank that has not outlived it.
        (gone(end=mark(), said=S.OUT_OF_MEMORY), S.OUT_OF_MEMORY),
        (gone(end=mark(74, nodes=NODES), said=S.NODE_FAIL), S.NODE_FAIL),
        (gone(end=mark(nodes=NODES), said=S.CANCELLED), S.CANCELLED),
        (gone(end=mark(nodes=NODES), said=S.TIMEOUT), S.TIMEOUT),
        *((gone(said=state), state) for state in S if state.is_terminal and state is not S.COMPLETED),
        (gone(end=mark(), said=S.COMPLETED), S.COMPLETED),
        # `Ended.is_success` asks for the end line.
        (gone(said=S.COMPLETED, for_seconds=120), S.COMPLETED),
        (Witnesses(accounting=S.TIMEOUT), S.TIMEOUT),
        (Witnesses(None, S.FAILED, S.OUT_OF_MEMORY), S.OUT_OF_MEMORY),
        (gone(end=mark(0), said=S.CANCELLED), S.CANCELLED),
        (gone(end=mark(0), said=S.FAILED), S.FAILED),
        *((gone(end=proof(), said=state), state) for state in S if state.is_terminal and state is not S.COMPLETED),
        (gone(end=proof(replace(GOOD, killed=1)), said=S.OUT_OF_MEMORY), S.OUT_OF_MEMORY),
        (Witnesses(proof(), GONE, S.COMPLETED, over_seconds=1, needs_accounting=True), S.COMPLETED),
        (Witnesses(mark(), GONE, S.COMPLETED, logs_complete=False, over_seconds=10), S.COMPLETED),
        (Witnesses(mark(), NOT_OURS, S.COMPLETED), S.COMPLETED),
    ],
    "ended, by squeue": [
        (Witnesses(None, S.FAILED, over_seconds=20), S.FAILED),
        (Witnesses(mark(), S.COMPLETED, over_seconds=20), S.COMPLETED),
        (Witnesses(None, S.FAILED, NONE_KEPT, over_seconds=120), S.FAILED),
        (Witnesses(None, S.FAILED, REFUSED, over_seconds=120), S.FAILED),
        (Witnesses(mark(3), S.FAILED, REFUSED), S.FAILED),
        (Witnesses(mark(0), S.TIMEOUT, NONE_KEPT), S.TIMEOUT),
        (Witnesses(None, S.TIMEOUT, REFUSED), S.TIMEOUT),
        (Witnesses(None, S.COMPLETED, NONE_KEPT, over_seconds=120), S.COMPLETED),
    ],
    "gone, with an end line": [
        (gone(end=mark(0), for_seconds=20), S.COMPLETED),
        (gone(end=mark(7), for_seconds=20), S.FAILED),
        (gone(end=mark(7), for_seconds=20, said=S.RUNNING), S.FAILED),
        # It was refused for longer than this job is over.
        (gone(end=mark(), said=REFUSED), S.COMPLETED),
        (gone(end=mark(), for_seconds=20, said=NOT_OURS), S.COMPLETED),
        (gone(end=mark(), said=NONE_KEPT), S.COMPLETED),
    ],
    # Its batch script would have written an end line, had it not been killed.
    "gone without a word, and nobody keeps or tells more": [
        (gone(for_seconds=120, said=NONE_KEPT), S.FAILED),
        (gone(for_seconds=120, said=REFUSED), S.FAILED),
    ],
    "gone, and sacct says that it goes on": [
        (gone(for_seconds=3599, said=S.RUNNING), ASK_ACCOUNTING),
        (gone(for_seconds=20, said=S.PENDING), ASK_ACCOUNTING),
    ],
    "gone without a word": [
        (gone(for_seconds=3599), ASK_ACCOUNTING),
        (gone(for_seconds=3599, said=NOT_OURS), ASK_ACCOUNTING),
        (gone(for_seconds=119, said=NONE_KEPT), ASK_ACCOUNTING),
        (gone(for_seconds=119, said=REFUSED), ASK_ACCOUNTING),
    ],
    "gone without a word for long": [
        (gone(for_seconds=3600), GIVE_UP),
        (gone(for_seconds=3600, said=GONE), GIVE_UP),
        (gone(for_seconds=3600, said=S.RUNNING), GIVE_UP),
    ],
}


@pytest.mark.parametrize(("row", "seen", "expected"), [(row, *case) for row, cases in CASES.items() for case in cases])
def test_a_row(row: str, seen: Witnesses, expected: Action | JobState) -> None:
    action, state = (Action.FINISH, expected) if isinstance(expected, JobState) else (expected, None)
    verdict = judge(seen, PATIENCE)
    assert (verdict.action, verdict.state, verdict.row.name) == (action, state, row)


def test_every_row_is_reached_and_has_a_name_of_its_own() -> None:
    assert list(CASES) == [row.name for row in TABLE]


def test_a_runaway_job_is_called_one() -> None:
    row = judge(gone(for_seconds=20, said=S.RUNNING), PATIENCE).row
    assert "sacctmgr show runawayjobs" in row.notice


marks = st.none() | st.builds(mark, st.integers(0, 255), nodes=st.sampled_from([(), NODES]))
with_proofs = marks | st.sampled_from([proof(), proof(nodes=NODES[:1]), *NO_PROOFS])
states = st.sampled_from(list(JobState))
by_queue = st.sampled_from([NOT_KNOWN, GONE, NOT_OURS]) | states
by_accounting = st.sampled_from(list(Silence)) | states
seconds = st.floats(0, 1e9)
witnesses = st.builds(
    Witnesses,
    with_proofs,
    by_queue,
    by_accounting,
    st.booleans(),
    seconds,
    seconds,
    st.integers(0, 3),
    st.booleans(),
)


@given(witnesses)
def test_a_state_is_told_at_the_end_and_only_there(seen: Witnesses) -> None:
    verdict = judge(seen, PATIENCE)
    assert (verdict.state is not None) == (verdict.action is Action.FINISH)
    assert verdict.state is None or verdict.state.is_terminal


@given(
    st.builds(
        Witnesses,
        marks,
        st.sampled_from([NOT_KNOWN, *(s for s in JobState if not s.is_terminal)]),
        st.sampled_from([NOT_KNOWN, GONE, NOT_OURS, S.RUNNING, S.PENDING]),
        st.booleans(),
        seconds,
        seconds,
        st.integers(0, 3),
    )
)
def test_no_answer_alone_never_ends_anything(seen: Witnesses) -> None:
    assert judge(seen, PATIENCE).action in (WAIT, ASK_QUEUE, ASK_ACCOUNTING)


@given(witnesses)
def test_what_is_believed_before_anybody_was_asked_is_a_proof_of_which_all_was_read(seen: Witnesses) -> None:
    verdict = judge(seen, PATIENCE)
    if verdict.action is Action.FINISH and not seen.is_over and seen.queue is not NOT_OURS:
        assert verdict.state is S.COMPLETED
        assert seen.end_mark is not None
        assert (seen.end_mark.is_proof, seen.logs_complete, seen.starts < 2) == (True, True, True)


@given(witnesses)
def test_what_is_believed_to_have_completed_has_an_end_line_or_slurm_says_so(seen: Witnesses) -> None:
    verdict = judge(seen, PATIENCE)
    if verdict.state is S.COMPLETED:
        assert seen.has_good_end or (seen.end_mark is None and seen.ended_state is S.COMPLETED)


@given(witnesses)
def test_a_failure_that_a_witness_told_is_never_success(seen: Witnesses) -> None:
    verdict = judge(seen, PATIENCE)
    has_outlived = seen.has_node_trouble and seen.has_good_end and seen.end_mark and seen.end_mark.nodes
    if verdict.action is Action.FINISH and seen.ended_state not in (None, S.COMPLETED) and not has_outlived:
        assert verdict.state is seen.ended_state


@given(witnesses, seconds)
def test_waiting_longer_never_turns_an_end_back(seen: Witnesses, more: float) -> None:
    later = replace(seen, over_seconds=seen.over_seconds + more, ending_seconds=seen.ending_seconds + more)
    now = judge(seen, PATIENCE)
    if now.action in (Action.FINISH, GIVE_UP):
        assert judge(later, PATIENCE).state is now.state


def test_the_page_has_the_table() -> None:
    """Written again by `python -m tests.support.judge_table`."""
    text = judge_table.PAGE.read_text(encoding="utf-8")
    assert text == judge_table.page(text)
