"""Which tags a run gets of its jobs."""

from __future__ import annotations

import threading
from typing import Any

from dagster_slurm.pipes.run_notes import JOB_TAG, RUN_DIRECTORY_TAG, _Tags, new_tags
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


class Slow:
    """In the place of an instance: a write goes on until it is let go, and others are counted meanwhile."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)

    def get_run_by_id(self, run_id: str) -> None:
        return None

    def add_run_tags(self, run_id: str, tags: dict[str, str]) -> None:
        self.begun.release()
        self.go.wait(10)


def test_no_two_writes_at_once() -> None:
    """Dagster writes all tags of a run, so that those of one would be lost."""
    instance: Any = Slow()
    tags = _Tags()
    first, second = handles(1, 2)
    threads = []
    for handle in (first, second):
        tags.add(instance, "run-1", handle)
        threads.append(threading.Thread(target=tags.finish, args=(instance, "run-1")))
        threads[-1].start()
        if handle is first:
            assert instance.begun.acquire(timeout=10)
    assert not instance.begun.acquire(timeout=0.2)
    instance.go.set()
    for thread in threads:
        thread.join()
    assert instance.begun.acquire(timeout=10)
