"""Which tags a run gets of its jobs."""

from __future__ import annotations

from dagster_slurm.pipes.run_tags import JOB_TAG, RUN_DIRECTORY_TAG, new_tags
from dagster_slurm.run_directory import JobHandle, LaunchKey


def handles(*job_ids: int) -> list[JobHandle]:
    directory = LaunchKey("run-1", "step").first_attempt("/base")
    return [JobHandle(directory, str(job_id)) for job_id in job_ids]


def jobs_in(tags: dict[str, str]) -> list[str]:
    return [name.removeprefix(JOB_TAG) for name in tags if name.startswith(JOB_TAG)]


def test_one_for_each_job() -> None:
    tags = new_tags({"team": "water"}, handles(7, 8))
    assert jobs_in(tags) == ["7", "8"]
    assert tags[f"{JOB_TAG}7"].startswith("step-")
    assert tags[RUN_DIRECTORY_TAG] == "/base/runs/run-1"


def test_of_the_first_twenty() -> None:
    tags = new_tags({}, handles(*range(700)))
    assert jobs_in(tags) == [str(number) for number in range(20)]
    assert jobs_in(new_tags(tags, handles(700))) == []
    assert jobs_in(new_tags(tags, handles(3))) == ["3"]
    # PostgreSQL's index has room for a third of a page.
    assert max(len(name) + len(value) for name, value in tags.items()) < 2700
