"""A number, a task or a run, and which jobs are meant."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.support.launches import claim_record

from dagster_slurm.cluster.description import Description
from dagster_slurm.cluster.records import AttemptRecord, LaunchRecord, Listing
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.housekeeping.jobs_table import unknown
from dagster_slurm.housekeeping.listed_jobs import Accounting, Snapshot, seen_jobs
from dagster_slurm.housekeeping.named_jobs import Chosen, chosen
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.output import UserQueueEntry, parse_squeue_of_user

RUN, OTHER = "5e3c7c44-9d2d-4f1c-b7bb-31cd3a8ff0a5", "5e3cffff-07c5-4a53-9a2d-0c2f8f2f2d4e"
ONE, ARRAY, GONE = "one-0123456789ab", "parts-0123456789ab", "gone-0123456789ab"


def launch(run: str, key: str, job_id: str, elements: Sequence[str] = ()) -> LaunchRecord:
    told = Description(run, run, step_key=key.partition("-")[0], elements=tuple(elements))
    attempt = AttemptRecord(RunDirectory("/b", run, key), "1", told, (), (claim_record(0, job_id, job_id),))
    return LaunchRecord(run, key, (attempt,))


def entries(*rows: tuple[str, str, str, str, str, str]) -> list[UserQueueEntry]:
    """Number, array, task, state, nodes and name, as squeue has them."""
    text = "".join(
        f"compute|0:10|9:50|10:00|1|1|1G|N/A|{job}|{array}|{task}|{state}|N/A|N/A|None|{nodes}|{name}|/b/runs/{RUN}/{name}/0/work\n"
        for job, array, task, state, nodes, name in rows
    )
    return parse_squeue_of_user(text)


LISTING = Listing(
    0.0,
    (launch(RUN, ONE, "11"), launch(RUN, ARRAY, "12", ("north", "south", "west")), launch(OTHER, ONE, "7")),
)
QUEUE = entries(
    ("11", "11", "N/A", "RUNNING", "n1", ONE),
    ("13", "12", "0", "RUNNING", "n2", ARRAY),
    ("14", "12", "1", "COMPLETED", "n2", ARRAY),
    ("12", "12", "2", "PENDING", "", ARRAY),
    ("15", "15", "N/A", "PENDING", "", GONE),
)
SEEN = Snapshot(LISTING, seen_jobs(LISTING, QUEUE), Accounting({}))


def named(text: str) -> list[Chosen]:
    return chosen(SEEN, unknown, text)


@pytest.mark.parametrize(
    ("text", "job_ids"),
    [
        ("11", ["11"]),
        ("12", ["12"]),
        ("12_2", ["12_2"]),
        ("15", ["15"]),
        (RUN, ["11", "12", "15"]),
        (RUN[:8], ["11", "12", "15"]),
        (OTHER[:6], ["7"]),
    ],
)
def test_what_a_name_stands_for(text: str, job_ids: list[str]) -> None:
    assert [each.job_id for each in named(text)] == job_ids


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("99", "No job of a run is known as 99"),
        ("", "No job of a run is known as "),
        ("5e3", "No job of a run is known as 5e3"),
        ("5e3c", "The ids of several runs begin with 5e3c"),
        ("12_3", "There is no task 3 of job 12: it has 3 tasks, from 0 on"),
        ("11_0", "There is no task 0 of job 11: it is no array"),
    ],
)
def test_what_stands_for_nothing(text: str, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        named(text)


@pytest.mark.parametrize(
    ("text", "is_live", "number"),
    [
        ("11", True, "11"),
        ("12", True, None),
        ("12_0", True, "13"),
        ("12_1", False, None),
        ("12_2", True, None),
        ("7", False, None),
    ],
)
def test_what_lives_and_the_number_under_which_it_runs(text: str, is_live: bool, number: str | None) -> None:
    (each,) = named(text)
    assert (each.is_live, each.own_number) == (is_live, number)


def test_what_tells_it_from_another_job() -> None:
    (task,), (gone,) = named("12_1"), named("15")
    assert task.handle.directory == RunDirectory("/b", RUN, ARRAY)
    assert task.place == RunDirectory("/b", RUN, ARRAY, element=1)
    assert (gone.handle.directory, gone.handle.generation) == (RunDirectory("/b", RUN, GONE), 0)
    stranger = entries(("15", "15", "N/A", "RUNNING", "n1", "another"))[0].entry
    assert not gone.handle.directory.is_of(stranger, generation=0)
