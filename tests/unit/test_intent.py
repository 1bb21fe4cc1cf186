"""What a signal, or the state of the run, means for the job: the whole table."""

import os
import signal
from collections.abc import Sequence
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.pipes.interruptions import Heard, Intent, decide_intent, is_interrupt
from dagster_slurm.pipes.run_notes import take_lease, was_terminated

GO_ON, DETACH, CANCEL = Intent.GO_ON, Intent.DETACH, Intent.CANCEL

TABLE = [
    ("nothing has happened", Status.STARTED, [], "", GO_ON),
    ("nothing has happened to a child", Status.STARTED, [], "child", GO_ON),
    ("the storage does not answer", None, [], "", GO_ON),
    ("a restart, in-process", Status.STARTED, [5.0], "", GO_ON),
    ("a restart, in-process, storage away", None, [5.0], "", GO_ON),
    ("a restart, a child of an executor", Status.STARTED, [5.0], "child", DETACH),
    ("Ctrl-C arrives from the terminal and from Dagster", Status.STARTED, [5.0, 5.4], "", GO_ON),
    ("Ctrl-C again", Status.STARTED, [5.0, 6.0], "", DETACH),
    ("Ctrl-C before anything is submitted", Status.STARTED, [5.0], "nothing yet", DETACH),
    ("a signal before the run has started", Status.STARTING, [5.0], "", GO_ON),
    ("terminated in the UI", Status.CANCELING, [5.0], "", CANCEL),
    ("terminated in the UI, a child", Status.CANCELING, [5.0], "child", CANCEL),
    ("terminated before anything is submitted", Status.CANCELING, [5.0], "nothing yet", CANCEL),
    ("terminated, and no signal came", Status.CANCELING, [], "", CANCEL),
    ("marked as canceled", Status.CANCELED, [], "", CANCEL),
    ("marked as failed, so that somebody retries it", Status.FAILURE, [], "", DETACH),
    ("over its maximum runtime", Status.FAILURE, [5.0], "terminated", CANCEL),
    ("over its maximum runtime, a child", Status.FAILURE, [5.0], "terminated child", CANCEL),
    ("over its maximum runtime, and no signal came", Status.FAILURE, [], "terminated", CANCEL),
    ("finished by hand", Status.SUCCESS, [], "", DETACH),
]


def intent(status: Status | None, at: Sequence[float], facts: str) -> Intent:
    heard = [Heard(each, signal.SIGTERM) for each in at]
    return decide_intent(
        status,
        heard,
        lambda: "child" in facts,
        was_terminated=lambda: "terminated" in facts,
        ends_at_once="nothing yet" in facts,
    )


@pytest.mark.parametrize(
    ("status", "at", "facts", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_table(status: Status | None, at: Sequence[float], facts: str, expected: Intent) -> None:
    assert intent(status, at, facts) is expected


@given(
    st.none() | st.sampled_from(list(Status)), st.lists(st.floats(0, 100)), st.sampled_from(["", "child", "terminated"])
)
def test_only_a_termination_cancels(status: Status | None, at: list[float], facts: str) -> None:
    is_ended = status in (Status.FAILURE, Status.SUCCESS)
    terminated = status in (Status.CANCELING, Status.CANCELED) or (is_ended and facts == "terminated")
    assert (intent(status, sorted(at), facts) is CANCEL) == terminated


def test_which_signal_is_ctrl_c() -> None:
    assert is_interrupt([Heard(1.0, signal.SIGTERM), Heard(2.0, signal.SIGINT)])
    assert not is_interrupt([Heard(1.0, signal.SIGTERM), Heard(2.0, signal.SIGHUP)])
    assert not is_interrupt([])


def test_a_termination_counts_that_is_younger_than_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of before was of a process that is gone: what works on the run now was not meant."""
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(dg.Definitions(assets=[_asset]).get_implicit_global_asset_job_def())
        assert not was_terminated(instance, run.run_id)
        instance.report_run_canceling(run)
        assert not was_terminated(instance, run.run_id)
        take_lease(instance, run)
        assert not was_terminated(instance, run.run_id)
        instance.report_run_canceling(run)
        instance.report_run_failed(run, "Exceeded maximum runtime of 5 seconds.")
        assert was_terminated(instance, run.run_id)
        pid: Any = os.getpid() + 1
        monkeypatch.setattr(os, "getpid", lambda: pid)
        assert not was_terminated(instance, run.run_id)


@dg.asset
def _asset() -> None: ...
