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
from dagster_slurm.housekeeping.named_jobs import Chosen, chosen, sources_of
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.output import UserQueueEntry, parse_squeue_of_user

RUN, OTHER = "5e3c7c44-9d2d-4f1c-b7bb-31cd3a8ff0a5", "5e3cffff-07c5-4a53-9a2d-0c2f8f2f2d4e"
ONE, ARRAY, GONE, HET = "one-0123456789ab", "parts-0123456789ab", "gone-0123456789ab", "het-0123456789ab"
ALONE = "alone-0123456789ab"


def launch(run: str, key: str, job_id: str, elements: Sequence[str] = (), *, is_hetjob: bool = False) -> LaunchRecord:
    told = Description(run, run, step_key=key.partition("-")[0], elements=tuple(elements), is_hetjob=is_hetjob)
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


HETS = Listing(
    0.0,
    (
        launch(RUN, HET, "21", ("a", "b", "c"), is_hetjob=True),
        launch(RUN, ALONE, "30", ("b",), is_hetjob=True),
        launch(OTHER, ONE, "7"),
    ),
)
COMPONENTS = entries(
    ("22", "22", "N/A", "RUNNING", "n[2-3]", HET),
    ("21", "21", "N/A", "RUNNING", "n1", HET),
    ("23", "23", "N/A", "COMPLETED", "", HET),
    ("30", "30", "N/A", "RUNNING", "n5", ALONE),
)
WITH_COMPONENTS = Snapshot(HETS, seen_jobs(HETS, COMPONENTS), Accounting({}))


def test_a_heterogeneous_job_is_one_with_the_nodes_of_all() -> None:
    (whole,) = chosen(WITH_COMPONENTS, unknown, "21")
    assert [job.job_id for job in WITH_COMPONENTS.jobs] == ["7", "21", "30"]
    assert (whole.job_id, whole.is_live, whole.own_number) == ("21", True, "21")
    assert (whole.row.nodes, whole.row.node_count, whole.row.cpus) == ("n1,n[2-3]", 3, 3)
    assert [source.title for source in sources_of([whole])] == ["21+0 a", "21+1 b", "21+2 c"]


def test_a_component_is_named_as_slurm_writes_it() -> None:
    (each,) = chosen(WITH_COMPONENTS, unknown, "21+1")
    assert (each.job_id, each.component, each.own_number) == ("21+1", 1, "21")
    assert each.place == RunDirectory("/b", RUN, HET, element=1)
    assert [source.title for source in sources_of([each])] == ["21+1 b"]
    # One alone is a job as any other, in the place of its element.
    (alone,) = chosen(WITH_COMPONENTS, unknown, "30")
    assert (alone.job_id, alone.component, alone.place) == ("30", None, RunDirectory("/b", RUN, ALONE, element=0))
    assert [source.title for source in sources_of([alone])] == ["30 b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("21+3", r"There is no component 3 of job 21: it has 3 components, from 0 on"),
        ("21_0", r"There is no task 0 of job 21: it is no array"),
        ("30+0", r"There is no component 0 of job 30: it is no heterogeneous job"),
        ("7+0", r"There is no component 0 of job 7: it is no heterogeneous job"),
    ],
)
def test_what_is_no_component(text: str, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        chosen(WITH_COMPONENTS, unknown, text)
