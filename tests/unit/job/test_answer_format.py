"""Answers of Slurm in a file: what is written is read again, and what is of another kind is refused."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.job.questions import entries_format
from dagster_slurm.slurm.output import AccountingRecord, AccountingStep, QueueEntry, parse_sacct, parse_squeue
from dagster_slurm.slurm.states import JobState

RECORDED = Path(__file__).parents[2] / "recorded"
times = st.none() | st.datetimes(
    min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(timezone.utc)
)
texts = st.none() | st.text()
entries = st.builds(
    QueueEntry, st.text(), st.text(), texts, st.text(), st.sampled_from(list(JobState)), texts, texts, times, times
)


QUEUE, ACCOUNTING = entries_format(QueueEntry), entries_format(AccountingRecord)


@given(entries)
def test_an_entry_of_the_queue(entry: QueueEntry) -> None:
    assert QUEUE.validate_json(QUEUE.dump_json({"1": entry}), strict=True) == {"1": entry}


# As the parser makes them: other kinds of mappings, and numbers that are none, it never gives.
tres = st.dictionaries(st.text(), st.text())
steps = st.builds(AccountingStep, usage_average=tres, usage_max=tres, usage_total=tres)
records = st.builds(
    AccountingRecord,
    alloc_tres=tres,
    req_tres=tres,
    steps=st.lists(steps).map(tuple),
    elapsed_seconds=st.none() | st.integers() | st.floats(min_value=0, allow_infinity=False),
    total_cpu_seconds=st.none() | st.floats(min_value=0, allow_infinity=False),
)


@given(records)
def test_a_record_of_the_accounting(record: AccountingRecord) -> None:
    assert ACCOUNTING.validate_json(ACCOUNTING.dump_json({"1": record}), strict=True) == {"1": record}


def test_that_a_cluster_keeps_no_such_thing() -> None:
    assert ACCOUNTING.validate_json(ACCOUNTING.dump_json(None), strict=True) is None


def plain(entry: QueueEntry) -> dict[str, object]:
    return dict(json.loads(QUEUE.dump_json({"1": entry}))["1"])


def read(told: dict[str, object]) -> QueueEntry:
    found = QUEUE.validate_json(json.dumps({"1": told}), strict=True)
    assert found is not None
    return found["1"]


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
    with pytest.raises(ValueError):
        read({**plain(ENTRY), **change})


def test_a_missing_field_is_refused_and_a_further_one_passed_over() -> None:
    told = plain(ENTRY)
    assert read({**told, "of_a_later_release": 1}) == ENTRY
    del told["reason"]
    with pytest.raises(ValueError):
        read(told)


def test_sacct_as_recorded() -> None:
    files = list(RECORDED.rglob("*.sacct.json"))
    assert files
    for file in files:
        answer = json.loads(file.read_text())
        fields = next(word for word in answer["argv"] if word.startswith("--format=")).removeprefix("--format=")
        records = parse_sacct(answer["stdout"], fields.split(","))
        assert ACCOUNTING.validate_json(ACCOUNTING.dump_json(records), strict=True) == records
