"""Every documented state: its code, its phase, and the ways it is printed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.slurm.documented import STATES, STATES_OF_SQUEUE

from dagster_slurm.errors import SlurmOutputError
from dagster_slurm.slurm.states import JobState, StatePhase, cancelled_by_uid, parse_job_state

WAITING, ACTIVE, ENDED = StatePhase.WAITING, StatePhase.ACTIVE, StatePhase.ENDED
TABLE = [
    ("BOOT_FAIL", "BF", ENDED),
    ("CANCELLED", "CA", ENDED),
    ("COMPLETED", "CD", ENDED),
    ("COMPLETING", "CG", ACTIVE),
    ("CONFIGURING", "CF", ACTIVE),
    ("DEADLINE", "DL", ENDED),
    ("EXPEDITING", "", WAITING),
    ("FAILED", "F", ENDED),
    ("LAUNCH_FAILED", "", ENDED),
    ("NODE_FAIL", "NF", ENDED),
    ("OUT_OF_MEMORY", "OOM", ENDED),
    ("PENDING", "PD", WAITING),
    ("POWER_UP_NODE", "", ACTIVE),
    ("PREEMPTED", "PR", ENDED),
    ("RECONFIG_FAIL", "", ENDED),
    ("REQUEUED", "RQ", WAITING),
    ("REQUEUE_FED", "RF", WAITING),
    ("REQUEUE_HOLD", "RH", WAITING),
    ("RESIZING", "RS", ACTIVE),
    ("RESV_DEL_HOLD", "RD", WAITING),
    ("REVOKED", "RV", ENDED),
    ("RUNNING", "R", ACTIVE),
    ("SIGNALING", "SI", ACTIVE),
    ("SPECIAL_EXIT", "SE", WAITING),
    ("STAGE_OUT", "SO", ACTIVE),
    ("STOPPED", "ST", ACTIVE),
    ("SUSPENDED", "S", ACTIVE),
    ("TIMEOUT", "TO", ENDED),
    ("UPDATE_DB", "", ACTIVE),
]


def test_table_holds_every_state_once() -> None:
    assert [name for name, _, _ in TABLE] == sorted(state.value for state in JobState)


def test_every_documented_state_is_known() -> None:
    assert [name for name in STATES if parse_job_state(name).value != name] == []
    documented = [entry.split() for entry in STATES_OF_SQUEUE.split(",")]
    assert [name for code, name in documented if parse_job_state(code) is not parse_job_state(name)] == []
    # A flag of 25.11, which the pages do not have yet.
    assert {state.value for state in JobState} - set(STATES) == {"EXPEDITING"}


def test_every_state_has_words_of_its_own() -> None:
    meanings = [state.meaning for state in JobState]
    assert len(set(meanings)) == len(meanings)
    assert all(meaning[0].islower() and not meaning.endswith(".") for meaning in meanings)


@pytest.mark.parametrize(("name", "code", "phase"), TABLE)
def test_state(name: str, code: str, phase: StatePhase) -> None:
    state = JobState(name)
    assert (state.code, state.phase) == (code, phase)
    assert state.is_terminal == (phase is ENDED)
    assert state.is_success == (name == "COMPLETED")
    assert str(state) == name
    spellings = {name, name.lower(), f" {name} ", f"{name} ", code, code.lower()} - {""}
    assert {parse_job_state(text) for text in spellings} == {state}


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("CANCELLED by 1000", JobState.CANCELLED),
        ("cancelled by 0", JobState.CANCELLED),
        ("CANCELLED+", JobState.CANCELLED),
        ("OUT_OF_ME+", JobState.OUT_OF_MEMORY),
        ("COMPLETED+", JobState.COMPLETED),
        ("COMPLETI+", JobState.COMPLETING),
        ("RESV_DEL+", JobState.RESV_DEL_HOLD),
        ("RUNNING,COMPLETING", JobState.COMPLETING),
        ("PENDING,REQUEUED", JobState.REQUEUED),
        ("COMPLETED,COMPLETING", JobState.COMPLETING),
        ("PENDING,REVOKED", JobState.REVOKED),
        ("FAILED,LAUNCH_FAILED", JobState.LAUNCH_FAILED),
        ("FAILED,LAUNCH_FAILED,COMPLETING", JobState.COMPLETING),
        ("RUNNING+COMPLETING", JobState.COMPLETING),
    ],
)
def test_other_spellings(text: str, state: JobState) -> None:
    assert parse_job_state(text) is state


@pytest.mark.parametrize(
    "text", ["", " ", "+", "C+", "COMPLET+", "RE+", "COMPLE", "DONE", "CANCELLED by root", "RUNNING now", "FOO,BAR"]
)
def test_unknown_text_is_named(text: str) -> None:
    with pytest.raises(SlurmOutputError) as caught:
        parse_job_state(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "uid"),
    [("CANCELLED by 1000", 1000), ("CANCELLED by 0", 0), ("CANCELLED", None), ("CANCELLED by me", None), ("", None)],
)
def test_cancelled_by_uid(text: str, uid: int | None) -> None:
    assert cancelled_by_uid(text) == uid


@given(st.text(max_size=40) | st.text(alphabet="ACDEFILMNOPRSTU_+, b1", max_size=30))
def test_any_text_gives_a_state_or_the_typed_error(text: str) -> None:
    with contextlib.suppress(SlurmOutputError):
        assert isinstance(parse_job_state(text), JobState)
