"""What of squeue's words is news: each change once, and not each round of the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.job.events import QueueLeft, QueueNews, QueueTeller, StateChanged, Waiting, line_of
from dagster_slurm.slurm.output import QueueEntry
from dagster_slurm.slurm.reasons import parse_reason
from dagster_slurm.slurm.states import JobState as S
from dagster_slurm.slurm.states import StatePhase

STARTED = "info Slurm job 12 was started by Slurm at 2026-01-01"
MIDNIGHT = datetime(2026, 1, 1, tzinfo=timezone.utc)
Look = tuple[float, S, str | None, float | None]


def at(seconds: float) -> datetime:
    return MIDNIGHT + timedelta(seconds=seconds)


def entry(state: S, reason: str | None, start: float | None) -> QueueEntry:
    return QueueEntry("12", "12", None, "name", state, reason, None, MIDNIGHT, None if start is None else at(start))


def told(looks: Sequence[Look], *, has_run: bool = False) -> list[QueueNews | None]:
    """What is told at each look: a moment, the state, the reason and the expected start."""
    teller = QueueTeller()
    news: list[QueueNews | None] = []
    for now, state, reason, start in looks:
        news += teller.news(entry(state, reason, start), has_run=has_run, now=now, utc=at(now)) or [None]
    return news


def waiting(looks: Sequence[tuple[float, str | None, float | None]]) -> list[tuple[str, datetime | None] | None]:
    news = told([(now, S.PENDING, reason, start) for now, reason, start in looks])
    return [(each.reason.code, each.expected_start) if isinstance(each, Waiting) else None for each in news]


class TestReasons:
    """Which reasons are told."""

    def test_the_same_reason_is_told_once(self) -> None:
        assert waiting([(0, "Priority", None), (30, "Priority", None), (9000, "Priority", None)]) == [
            ("Priority", None),
            None,
            None,
        ]

    def test_another_list_of_nodes_is_no_news_and_other_words_are(self) -> None:
        looks = ["UnavailableNodes:n1", "UnavailableNodes:n2", "May be reserved for other job"]
        seen = waiting([(30 * n, f"ReqNodeNotAvail, {look}", None) for n, look in enumerate(looks)])
        assert [each is not None for each in seen] == [True, False, True]

    def test_going_back_and_forth_is_told_each_ten_minutes_at_most(self) -> None:
        looks = [(30.0 * n, "Priority" if n % 2 else "Resources", None) for n in range(120)]
        assert sum(each is not None for each in waiting(looks)) <= 2 * 3600 / 600 + 1

    def test_a_hold_is_told_each_time_and_what_follows_it(self) -> None:
        looks = [(30.0 * n, "Resources" if n % 2 else "JobHeldUser", None) for n in range(6)]
        assert None not in waiting(looks)

    def test_no_reason_is_told_at_the_second_look_and_only_if_none_was_told(self) -> None:
        assert waiting([(1.5, None, None), (6.5, None, None), (14, None, None), (25, "Priority", None)]) == [
            None,
            ("None", None),
            None,
            ("Priority", None),
        ]
        assert waiting([(1.5, "Priority", None), (6.5, None, None), (14, "Priority", None)])[1:] == [None, None]


class TestEstimates:
    """Which estimates are told."""

    @pytest.mark.parametrize(
        ("first", "then", "now", "is_news"),
        [
            (None, 3600, 30, True),
            (3600, None, 1000, False),
            (3600, 3630, 1000, False),
            (3600, 3570, 1000, False),
            (3600, 3850, 1000, False),
            (3600, 3870, 1000, True),
            (3600, 3000, 1000, True),
            (3600, 7200, 100, False),
            (1000, 1061, 900, True),
            (1000, 1059, 900, False),
            (86400 * 3, 86400 * 3 + 3600, 1000, False),
            (86400 * 3, 86400 * 4, 1000, True),
        ],
        ids=str,
    )
    def test_what_moves_by_much_is_news(self, first: int | None, then: int | None, now: float, is_news: bool) -> None:
        before, after = waiting([(0, "Priority", first), (now, "Priority", then)])
        assert before == ("Priority", None if first is None else at(first))
        assert after == (("Priority", at(then)) if is_news and then is not None else None)

    def test_an_estimate_that_has_gone_by_is_none(self) -> None:
        assert waiting([(1000, "Priority", 900)]) == [("Priority", None)]

    def test_small_steps_add_up(self) -> None:
        looks = [(30.0 * n, "Priority", 3600 + 30.0 * n) for n in range(100)]
        assert 5 <= sum(each is not None for each in waiting(looks)) <= 12

    @given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200))
    def test_whatever_the_estimates_a_day_has_no_more_than_twelve_lines_an_hour(self, starts: list[int]) -> None:
        looks = [(30.0 * n, "Priority", float(start)) for n, start in enumerate(starts)]
        assert sum(each is not None for each in waiting(looks)) <= len(starts) * 30 / 300 + 2


class TestStates:
    """Which states are told."""

    def test_suspended_and_resumed(self) -> None:
        looks: list[Look] = [(30.0 * n, state, None, 10) for n, state in enumerate([S.RUNNING, S.SUSPENDED] * 2)]
        assert told([*looks, (200, S.SUSPENDED, None, 10), (230, S.RUNNING, None, 10)]) == [
            None,
            StateChanged(S.SUSPENDED),
            StateChanged(S.RUNNING, S.SUSPENDED),
            StateChanged(S.SUSPENDED),
            None,
            StateChanged(S.RUNNING, S.SUSPENDED),
        ]

    @pytest.mark.parametrize("via", ["", "COMPLETING", "COMPLETING REQUEUED", "REQUEUED COMPLETING"])
    def test_requeued_is_told_once(self, via: str) -> None:
        states = [S.PENDING, S.RUNNING, *map(S, via.split()), S.PENDING, S.PENDING, S.RUNNING, S.PENDING]
        news = told([(30.0 * n, state, "BeginTime", None) for n, state in enumerate(states)])
        assert [each for each in news if isinstance(each, StateChanged)] == [StateChanged(S.REQUEUED)] * 2
        assert sum(isinstance(each, Waiting) for each in news) == 3

    @pytest.mark.parametrize("state", [S.REQUEUE_HOLD, S.SPECIAL_EXIT, S.REQUEUE_FED, S.EXPEDITING])
    def test_requeued_in_a_state_of_its_own(self, state: S) -> None:
        news = told([(0, S.RUNNING, None, 0), (30, state, "JobHeldUser", None)])
        assert news[1:] == [StateChanged(state), Waiting(parse_reason("JobHeldUser"), None)]

    def test_a_start_that_squeue_was_not_asked_about_makes_it_a_requeue(self) -> None:
        assert told([(0, S.PENDING, "BeginTime", None)], has_run=True)[0] == StateChanged(S.REQUEUED)

    def test_nodes_that_are_booted_are_told(self) -> None:
        states = [S.PENDING, S.CONFIGURING, S.CONFIGURING, S.RUNNING]
        news = told([(30.0 * n, state, "Priority", None) for n, state in enumerate(states)])
        assert news[1:] == [StateChanged(S.CONFIGURING), None, None]

    @given(
        st.lists(st.tuples(st.sampled_from(S), st.sampled_from([None, "Priority", "JobHeldUser", "odd"])), max_size=30)
    )
    def test_any_course_is_told_in_lines(self, course: list[tuple[S, str | None]]) -> None:
        for news in told([(30.0 * n, state, reason, None) for n, (state, reason) in enumerate(course)]):
            if news is not None:
                level, line = line_of("12", news)
                assert line.startswith("Slurm job 12 ")
                assert "\n" not in line
                assert level in ("info", "warning")
        waits = [state for state, _ in course if state.phase is StatePhase.WAITING]
        assert waits or not any(isinstance(each, Waiting) for each in told([(0, s, r, None) for s, r in course]))


@pytest.mark.parametrize(
    ("news", "line"),
    [
        (
            Waiting(parse_reason("PartitionDown"), None),
            "info Slurm job 12 waits: its partition is down (PartitionDown); it starts when an administrator brings "
            "the partition up. Expected start: unknown",
        ),
        (
            Waiting(parse_reason("Priority"), at(3600)),
            "info Slurm job 12 waits: jobs of higher priority are before it (Priority); it starts after them, or "
            "before if it fits into a gap, which is easier with a shorter time limit. Expected start: "
            "2026-01-01 01:00 UTC",
        ),
        (
            Waiting(parse_reason("ReqNodeNotAvail, UnavailableNodes:n[1-3]"), None),
            "info Slurm job 12 waits: nodes it needs are down, drained or do not answer (ReqNodeNotAvail: n[1-3]); it "
            "starts when an administrator brings them back. Expected start: unknown",
        ),
        (
            Waiting(parse_reason("JobHeldUser"), None),
            "warning Slurm job 12 waits: it is held, by you or by a coordinator of its account (JobHeldUser); "
            "`scontrol release 12` lets it start",
        ),
        (
            Waiting(parse_reason("DependencyNeverSatisfied"), None),
            "warning Slurm job 12 waits: it depends on another job, which has ended in a way the dependency does not "
            "allow (DependencyNeverSatisfied); it does not start as it was asked for: cancel it and submit it again, "
            "with another dependency or none",
        ),
        (
            Waiting(parse_reason("SiteBudget"), None),
            "info Slurm job 12 waits: for a reason that is not in Slurm's documentation (SiteBudget); squeue(1) on the "
            "cluster, or the site, may explain it. Expected start: unknown",
        ),
        (QueueLeft(at(61), 42.4), f"{STARTED} 00:01:01 UTC, after 42 s in the queue"),
        (QueueLeft(at(0), 1234), f"{STARTED} 00:00:00 UTC, after 21 min in the queue"),
        (QueueLeft(at(0), 86400), f"{STARTED} 00:00:00 UTC, after 24 h in the queue"),
        (StateChanged(S.SUSPENDED), "info Slurm job 12 is suspended: its processes stand still until it is resumed"),
        (StateChanged(S.RUNNING, S.SUSPENDED), "info Slurm job 12 goes on"),
        (
            StateChanged(S.REQUEUED),
            "info Slurm job 12 was requeued: its work was ended, and it waits to start again",
        ),
    ],
)
def test_lines(news: QueueNews, line: str) -> None:
    assert " ".join(line_of("12", news)) == line
