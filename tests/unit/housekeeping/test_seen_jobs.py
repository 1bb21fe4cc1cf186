"""Directories, squeue and sacct beside each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.support.launches import claim_record

from dagster_slurm.cluster.description import Description, parse_marks
from dagster_slurm.cluster.records import REVOKED, AttemptRecord, ClaimRecord, LaunchRecord, Listing
from dagster_slurm.housekeeping.listed_jobs import Accounting, Fate, SeenJob, fate_of, lacks_tasks, seen_jobs, tasks_of
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.output import AccountingRecord, UserQueueEntry, parse_sacct, parse_squeue_of_user
from dagster_slurm.slurm.states import JobState

KEY = "step-0123456789ab"
START, END, FAILED = "start 17 0 100.0 n1\n", "end 17 0 0 103.5 1 2 3\n", "end 17 0 3 103.5 1 2 3\n"


def queued(job_id: str = "17", state: str = "RUNNING", name: str = KEY, where: str = "/home/me") -> UserQueueEntry:
    (entry,) = parse_squeue_of_user(
        f"compute|1:00|9:00|10:00|1|2|1G|N/A|{job_id}|{job_id}|N/A|{state}|N/A|N/A|None|n1|{name}|{where}\n"
    )
    return entry


def accounted(state: str, name: str = KEY) -> AccountingRecord:
    empty = "|" * 18
    (record,) = parse_sacct(f"17|17|{state}|0:0|0:0{empty}|{name}|/home/me\n").values()
    return record


def listing(*claims: ClaimRecord, status: str = "", attempt: int = 0) -> Listing:
    marks = parse_marks(status)[0]
    record = AttemptRecord(RunDirectory("/b", "run", KEY, attempt), "1", Description(), marks, claims)
    return Listing(0.0, (LaunchRecord("run", KEY, (record,)),))


def told(found: list[SeenJob]) -> list[tuple[str, str, bool, bool]]:
    return [(job.job_id, job.name, job.attempt is not None, job.queued is not None) for job in found]


def test_a_job_of_a_directory_and_of_the_queue_is_one() -> None:
    found = seen_jobs(listing(claim_record(0, "17", "17")), [queued()])
    assert told(found) == [("17", KEY, True, True)]


def test_a_job_whose_directory_is_gone_is_known_by_its_name() -> None:
    found = seen_jobs(Listing(0.0), [queued(), queued("9", name=f"{KEY}.2.1"), queued("3", name="somebody-else-s")])
    assert told(found) == [("9", f"{KEY}.2.1", False, True), ("17", KEY, False, True)]
    assert {job.step_of_name for job in found} == {"step"}


def test_a_submission_whose_answer_was_lost_is_known_by_its_name() -> None:
    assert told(seen_jobs(listing(claim_record(0)), [queued()])) == [("17", KEY, True, True)]
    assert told(seen_jobs(listing(claim_record(0)), [])) == []


def test_a_number_alone_is_not_a_job_of_ours() -> None:
    found = seen_jobs(listing(claim_record(0, "17")), [queued(name="another")])
    assert told(found) == [("17", KEY, True, False)]


def test_a_job_that_a_site_has_renamed_is_known_by_its_directory() -> None:
    found = seen_jobs(listing(claim_record(0, "17")), [queued(name="site-1", where=f"/b/runs/run/{KEY}/0/work")])
    assert told(found) == [("17", KEY, True, True)]
    assert fate_of(found[0], Accounting({})) is Fate.LIVE


def test_each_try_has_its_own_job() -> None:
    claims = claim_record(0, "16", REVOKED), claim_record(1, "17", "17")
    found = seen_jobs(listing(*claims), [queued(name=f"{KEY}.0.1"), queued("16", "PENDING")])
    assert told(found) == [("16", KEY, True, True), ("17", f"{KEY}.0.1", True, True)]


def test_two_jobs_of_one_name_are_both_shown() -> None:
    found = seen_jobs(listing(claim_record(0, "17", "17")), [queued(), queued("18", "PENDING")])
    assert told(found) == [("17", KEY, True, True), ("18", KEY, True, True)]


LIVE_STATES = [state.value for state in JobState if not state.is_terminal]


def test_there_are_the_states_of_a_live_job() -> None:
    expected = {"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD"}
    assert expected <= set(LIVE_STATES)


@pytest.mark.parametrize("state", LIVE_STATES)
@pytest.mark.parametrize("status", ["", START, START + END])
def test_what_squeue_holds_for_live_lives_whatever_else_is_said(state: str, status: str) -> None:
    (job,) = seen_jobs(listing(claim_record(0, "17", "17"), status=status), [queued(state=state)])
    assert fate_of(job, Accounting({"17": accounted("FAILED")})) is Fate.LIVE


@pytest.mark.parametrize(
    ("status", "owner", "known", "fate"),
    [
        (START + END, "17", {}, Fate.COMPLETED),
        (START + FAILED, "17", {}, Fate.ENDED),
        (START, "17", {"queue": "COMPLETED"}, Fate.COMPLETED),
        (START, "17", {"queue": "TIMEOUT"}, Fate.ENDED),
        (START, "17", {"sacct": "COMPLETED"}, Fate.COMPLETED),
        (START, "17", {"sacct": "NODE_FAIL"}, Fate.ENDED),
        # sacct still holds it for running: it may be late.
        (START, "17", {"sacct": "RUNNING"}, Fate.NOT_KNOWN),
        (START, "17", {}, Fate.NOT_KNOWN),
        ("", "", {}, Fate.NOT_KNOWN),
        # The number is another job's.
        (START, "17", {"sacct": "COMPLETED", "name": "another"}, Fate.NOT_KNOWN),
        (START, "17", {"off": True}, Fate.ENDED),
        ("", "", {"sacct": "CANCELLED"}, Fate.ENDED),
        # Where two tell different things, a result may be there.
        (START + END, "17", {"sacct": "NODE_FAIL"}, Fate.COMPLETED),
        # It ended at a gate that was another's: it has run nothing.
        ("", "16", {"queue": "COMPLETED"}, Fate.NONE),
        ("", REVOKED, {"sacct": "COMPLETED"}, Fate.NONE),
        ("", REVOKED, {}, Fate.ENDED),
    ],
)
def test_fates(status: str, owner: str, known: dict[str, Any], fate: Fate) -> None:
    entries = [queued(state=known["queue"])] if "queue" in known else []
    records = {"17": accounted(known["sacct"], known.get("name", KEY))} if "sacct" in known else {}
    found = seen_jobs(listing(claim_record(0, "17", owner), status=status), entries)
    job = next(job for job in found if job.job_id == "17")
    assert fate_of(job, Accounting(records, is_off=known.get("off", False))) is fate


def test_marks_of_another_try_are_not_its_own() -> None:
    (job,) = seen_jobs(listing(claim_record(0, "18", "18"), status=START + END), [])
    assert fate_of(job, Accounting({})) is Fate.NOT_KNOWN
    assert replace(job, marks=()) == job


@pytest.mark.parametrize(
    ("path", "relative"),
    [
        (f"/b/runs/run/{KEY}/0/work", f"run/{KEY}/0"),
        (f"/b/runs/x/runs/run/{KEY}/3/work", f"run/{KEY}/3"),
        (f"/b/runs/run/{KEY}/0", None),
        (f"/b/runs/../{KEY}/0/work", None),
        ("/home/me", None),
        ("", None),
        (None, None),
    ],
)
def test_the_path_of_a_job_tells_where_it_has_lain(path: str | None, relative: str | None) -> None:
    found = RunDirectory.from_work(path)
    assert (found and found.relative) == relative


def test_an_array_of_which_squeue_has_forgotten_some_is_asked_about() -> None:
    def line(job_id: str, tasks: str, state: str) -> UserQueueEntry:
        found = queued(job_id, state)
        return replace(found, entry=replace(found.entry, array_job_id="17", array_task_id=tasks))

    told = Description(elements=("a", "b", "c", "d"))
    attempt = AttemptRecord(RunDirectory("/b", "run", KEY), "1", told, (), (claim_record(0, "17", "17"),))
    both = Listing(0.0, (LaunchRecord("run", KEY, (attempt,)),))
    (some,) = seen_jobs(both, [line("17", "2-3", "PENDING"), line("19", "1", "RUNNING")])
    (whole,) = seen_jobs(both, [line("17", "1-3", "PENDING"), line("18", "0", "COMPLETED")])
    assert (lacks_tasks(some), lacks_tasks(whole)) == (True, False)
    # It is as one of its tasks that runs.
    assert some.queued is not None and some.queued.entry.state is JobState.RUNNING
    mine, other = replace(accounted("FAILED"), job_id="17_0"), replace(accounted("FAILED", "another"), job_id="17_0")
    expected = {JobState.RUNNING: 1, JobState.PENDING: 2}
    assert tasks_of(some, Accounting({"17_0": mine})) == {**expected, JobState.FAILED: 1}
    assert tasks_of(some, Accounting({"17_0": other})) == expected
