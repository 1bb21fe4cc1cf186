"""What Dagster's records say of a piece of work, from a real instance."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import pytest

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.housekeeping.dagster_records import DagsterRecords, records_of_environment
from dagster_slurm.housekeeping.jobs_table import RunStanding

Status = dg.DagsterRunStatus
RETRY = {"dagster/is_resume_retry": "true"}


@dg.asset
def step() -> None:
    """Its success is what other runs are given."""


class Book:
    """An instance, and runs written into it."""

    def __init__(self, instance: dg.DagsterInstance, success: dg.DagsterEvent) -> None:
        self.instance = instance
        self._success = success

    def run(
        self, run_id: str, status: Status, parent: str | None = None, *, retry: bool = False, success: bool = False
    ) -> None:
        relatives = {"dagster/parent_run_id": parent, "dagster/root_run_id": "a"} if parent else {}
        run = dg.DagsterRun(
            job_name="job",
            run_id=run_id,
            status=status,
            parent_run_id=parent,
            root_run_id="a" if parent else None,
            tags={**relatives, **(RETRY if retry else {})},
        )
        self.instance.add_run(run)
        if success:
            self.instance.report_dagster_event(self._success, run_id)

    def word(self, *run_ids: str, step_key: str = "step") -> tuple[RunStanding, str, str]:
        word = DagsterRecords(self.instance).word(run_ids, step_key)
        return word.standing, word.run_id, word.status


@pytest.fixture(scope="module")
def success() -> dg.DagsterEvent:
    """Of a real run, which costs more than all that is written here."""
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([step], instance=instance)
    (event,) = done.filter_events(lambda event: event.event_type_value == "STEP_SUCCESS")
    return event


@pytest.fixture
def book(instance: dg.DagsterInstance, success: dg.DagsterEvent) -> Book:
    return Book(instance, success)


def test_without_records_nothing_is_known() -> None:
    records = DagsterRecords(None)
    assert not records.are_there
    assert records.word(["a"], "step").standing is RunStanding.UNKNOWN


def test_a_run_that_is_not_there(book: Book) -> None:
    assert book.word("a") == (RunStanding.UNKNOWN, "a", "")


@pytest.mark.parametrize(
    ("status", "standing"),
    [
        (Status.NOT_STARTED, RunStanding.IN_PROGRESS),
        (Status.STARTING, RunStanding.IN_PROGRESS),
        (Status.STARTED, RunStanding.IN_PROGRESS),
        (Status.CANCELING, RunStanding.IN_PROGRESS),
        (Status.FAILURE, RunStanding.OVER),
        (Status.CANCELED, RunStanding.OVER),
        (Status.SUCCESS, RunStanding.OVER),
    ],
)
def test_one_run(book: Book, status: Status, standing: RunStanding) -> None:
    book.run("a", status)
    assert book.word("a") == (standing, "a", status.value)


def test_success_of_this_step_and_of_another(book: Book) -> None:
    book.run("a", Status.STARTED, success=True)
    assert book.word("a")[0] is RunStanding.SUCCEEDED
    assert book.word("a", step_key="another")[0] is RunStanding.IN_PROGRESS
    assert book.word("a", step_key="")[0] is RunStanding.IN_PROGRESS


def test_a_retry_counts_for_its_origin(book: Book) -> None:
    book.run("a", Status.FAILURE)
    book.run("b", Status.STARTED, "a", retry=True)
    assert book.word("a") == (RunStanding.IN_PROGRESS, "b", "STARTED")
    book.run("c", Status.SUCCESS, "b", retry=True, success=True)
    assert book.word("a") == (RunStanding.SUCCEEDED, "c", "SUCCESS")


def test_a_re_execution_of_all_steps_is_shown_with_its_own_work(book: Book) -> None:
    book.run("a", Status.FAILURE)
    book.run("b", Status.FAILURE, "a")
    assert book.word("a") == (RunStanding.OVER, "a", "FAILURE")
    assert book.word("b") == (RunStanding.OVER, "b", "FAILURE")


def test_a_success_before_is_of_another_piece_of_work(book: Book) -> None:
    # The step is executed anew; its result has to be collected again.
    book.run("a", Status.SUCCESS, success=True)
    book.run("b", Status.STARTED, "a")
    assert book.word("b") == (RunStanding.IN_PROGRESS, "b", "STARTED")
    assert book.word("a")[0] is RunStanding.SUCCEEDED


def test_a_success_after_it_makes_a_result_needless(book: Book) -> None:
    book.run("a", Status.FAILURE)
    book.run("b", Status.SUCCESS, "a", success=True)
    assert book.word("a")[0] is RunStanding.SUCCEEDED


def test_who_has_adopted_the_job_counts_as_well(book: Book) -> None:
    book.run("a", Status.FAILURE)
    book.run("other", Status.STARTED)
    assert book.word("a", "other") == (RunStanding.IN_PROGRESS, "other", "STARTED")
    assert book.word("a", "not known")[0] is RunStanding.UNKNOWN
    book.instance.report_run_failed(book.instance.get_run_by_id("other"))  # type: ignore[arg-type]
    assert book.word("a", "other")[0] is RunStanding.OVER


def test_for_how_long_it_is_over(book: Book) -> None:
    book.run("a", Status.STARTED)
    book.instance.report_run_failed(book.instance.get_run_by_id("a"))  # type: ignore[arg-type]
    over_seconds = DagsterRecords(book.instance).word(["a"], "step").over_seconds
    assert over_seconds is not None
    assert 0 <= over_seconds < 60


def test_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with records_of_environment() as records:
        assert not records.are_there
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with records_of_environment() as records:
        assert records.are_there
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "missing"))
    with pytest.raises(ConfigurationError, match="DAGSTER_HOME"), records_of_environment():
        pass
    assert os.environ["DAGSTER_HOME"]
