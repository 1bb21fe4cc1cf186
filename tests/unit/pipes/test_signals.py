"""One account of signals and status, whichever thread asks."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from dagster import DagsterRun, DagsterRunStatus, RunsFilter

from dagster_slurm.pipes.interruptions import SHARED, RunSignals

RUN = DagsterRun(job_name="tides", run_id="5e3c7c44-9d2d-4f1c-b7bb-31cd3a8ff0a5", status=DagsterRunStatus.STARTED)


class Storage:
    """Stands for an instance: its database answers, or is away. A real one cannot be made to."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False

    def get_runs(self, filters: RunsFilter) -> list[DagsterRun]:
        self.asked += 1
        if self.away:
            raise ConnectionError("database away")
        assert filters == RunsFilter(run_ids=[RUN.run_id])
        return [RUN]


@pytest.fixture
def storage() -> Any:
    return Storage()


def test_the_status_is_asked_for_once_in_a_while(storage: Any) -> None:
    mine = RunSignals(storage, RUN)
    assert [mine.run_status(max_age_seconds=60) for _ in range(100)] == [DagsterRunStatus.STARTED] * 100
    assert storage.asked == 1
    mine.run_status(max_age_seconds=0)
    assert storage.asked == 2


def test_an_answer_serves_for_as_long_as_is_said(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("dagster_slurm.pipes.interruptions.seconds_since_boot", lambda: now[0])
    mine = RunSignals(storage, RUN)
    for seconds, max_age_seconds, asked in [
        (0, 3, 1),
        (0.1, 0.2, 1),
        (0.2, 0.2, 2),
        (0, 0, 3),
        (2.9, 3, 3),
        (0.1, 3, 4),
    ]:
        now[0] += seconds
        mine.run_status(max_age_seconds=max_age_seconds)
        assert storage.asked == asked, (seconds, max_age_seconds)


def test_a_database_that_is_away_ends_nothing(storage: Any) -> None:
    with SHARED.of_run(storage, RUN):
        assert not SHARED.is_to_stop(RUN.run_id)
        storage.away = True
        mine = SHARED.find(RUN)
        assert mine is not None
        assert mine.run_status(max_age_seconds=0) is DagsterRunStatus.STARTED
        assert isinstance(mine.error, ConnectionError)
        assert not SHARED.is_to_stop(RUN.run_id)
    assert SHARED.find(RUN) is None


def test_handlers_are_put_back(storage: Any) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    mine = RunSignals(storage, RUN)
    with mine.listen():
        os.kill(os.getpid(), signal.SIGTERM)
    assert [each.number for each in mine.heard] == [signal.SIGTERM]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_without_a_run_nobody_is_asked() -> None:
    assert RunSignals(None, None).run_status(max_age_seconds=0) is None
