"""What a signal, or the state of the run, means for the job: the whole table."""

from collections.abc import Sequence

import pytest
from dagster import DagsterRunStatus as Status
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.pipes.interruptions import Intent, decide_intent

GO_ON, DETACH, CANCEL = Intent.GO_ON, Intent.DETACH, Intent.CANCEL

TABLE = [
    ("nothing has happened", Status.STARTED, [], False, GO_ON),
    ("nothing has happened to a child", Status.STARTED, [], True, GO_ON),
    ("the storage does not answer", None, [], False, GO_ON),
    ("a restart, in-process", Status.STARTED, [5.0], False, GO_ON),
    ("a restart, in-process, storage away", None, [5.0], False, GO_ON),
    ("a restart, a child of an executor", Status.STARTED, [5.0], True, DETACH),
    ("Ctrl-C arrives from the terminal and from Dagster", Status.STARTED, [5.0, 5.4], False, GO_ON),
    ("Ctrl-C again", Status.STARTED, [5.0, 6.0], False, DETACH),
    ("a signal before the run has started", Status.STARTING, [5.0], False, GO_ON),
    ("terminated in the UI", Status.CANCELING, [5.0], False, CANCEL),
    ("terminated in the UI, a child", Status.CANCELING, [5.0], True, CANCEL),
    ("terminated, and no signal came", Status.CANCELING, [], False, CANCEL),
    ("marked as canceled", Status.CANCELED, [], False, CANCEL),
    ("marked as failed, so that somebody retries it", Status.FAILURE, [], False, DETACH),
]


@pytest.mark.parametrize(
    ("status", "signal_times", "is_child", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_table(status: Status | None, signal_times: Sequence[float], is_child: bool, expected: Intent) -> None:
    assert decide_intent(status, signal_times, lambda: is_child) is expected


@given(st.none() | st.sampled_from(list(Status)), st.lists(st.floats(0, 100)), st.booleans())
def test_only_a_user_s_termination_cancels(status: Status | None, signal_times: list[float], is_child: bool) -> None:
    cancels = decide_intent(status, sorted(signal_times), lambda: is_child) is CANCEL
    assert cancels == (status in (Status.CANCELING, Status.CANCELED))
