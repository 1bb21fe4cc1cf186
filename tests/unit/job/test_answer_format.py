"""Answers of Slurm in a file: what is written is read again, and what is of another kind is refused."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.job.turns import from_plain, to_plain
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry, parse_sacct, parse_squeue
from dagster_slurm.slurm.states import JobState

RECORDED = Path(__file__).parents[2] / "recorded"
times = st.none() | st.datetimes(
    min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(timezone.utc)
)
texts = st.none() | st.text()
entries = st.builds(
    QueueEntry, st.text(), st.text(), texts, st.text(), st.sampled_from(list(JobState)), texts, texts, times, times
)


def through_a_file(value: object) -> object:
    return json.loads(json.dumps(to_plain(value)))


@given(entries)
def test_an_entry_of_the_queue(entry: QueueEntry) -> None:
    assert from_plain(QueueEntry, through_a_file(entry)) == entry


@given(st.from_type(AccountingRecord))
def test_a_record_of_the_accounting(record: AccountingRecord) -> None:
    # As text: a number that is none (NaN) is not equal to itself.
    again = from_plain(AccountingRecord, through_a_file(record))
    assert json.dumps(to_plain(again)) == json.dumps(to_plain(record))


ENTRY = parse_squeue("12|12|N/A|RUNNING|2026-01-01T00:00:00|2026-01-01T00:00:01|None|n1|name|/home/me\n")[0]


@pytest.mark.parametrize(
    "change",
    [
        {"state": "NO_SUCH_STATE"},
        {"submit_time": "yesterday"},
        {"submit_time": 12},
        {"job_id": 12},
        {"job_id": None},
    ],
)
def test_another_kind_of_value_is_refused(change: dict[str, object]) -> None:
    plain = through_a_file(ENTRY)
    assert isinstance(plain, dict)
    with pytest.raises(ValueError):
        from_plain(QueueEntry, {**plain, **change})


def test_a_missing_field_is_refused_and_a_further_one_passed_over() -> None:
    plain = through_a_file(ENTRY)
    assert isinstance(plain, dict)
    assert from_plain(QueueEntry, {**plain, "of_a_later_release": 1}) == ENTRY
    del plain["reason"]
    with pytest.raises(ValueError):
        from_plain(QueueEntry, plain)


def test_sacct_as_recorded() -> None:
    files = list(RECORDED.rglob("*.sacct.json"))
    assert files
    for file in files:
        answer = json.loads(file.read_text())
        fields = next(word for word in answer["argv"] if word.startswith("--format=")).removeprefix("--format=")
        for record in parse_sacct(answer["stdout"], fields.split(",")).values():
            assert from_plain(AccountingRecord, through_a_file(record)) == record
