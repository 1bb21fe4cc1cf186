"""How a job stands at one look: what is not told at once is followed, and not waited for."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.launches import KEY, claim_record

from dagster_slurm.cluster.description import parse_marks
from dagster_slurm.cluster.look import SlurmAnswers
from dagster_slurm.cluster.records import AttemptRecord
from dagster_slurm.job.retrying import Outcome
from dagster_slurm.job.submission import Stand, stand_of
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry, parse_sacct, parse_squeue
from dagster_slurm.slurm.states import JobState

START, GOOD, BAD = "start 17 0 1.0 n1\n", "end 17 0 0 2.0 0 0 0\n", "end 17 0 3 2.0 0 0 0\n"
LIVE, OVER = Stand(is_live=True), Stand(is_over=True)
OURS, THEIRS = f"/home/me/runs/run/{KEY}/0/work", "/home/me"


def queued(state: str, job_id: str = "17", name: str = KEY, where: str = "") -> QueueEntry:
    return parse_squeue(f"{job_id}|{job_id}|N/A|{state}|N/A|N/A|None|n1|{name}|{where}\n")[0]


def accounted(state: str, exit_code: int = 0, name: str = KEY, where: str = "") -> AccountingRecord:
    return parse_sacct(f"17|17|{state}|{exit_code}:0|0:0{'|' * 18}|{name}|{where}\n")["17"]


def ended(state: JobState, exit_code: int | None = None) -> Stand:
    return Stand(is_over=True, outcome=Outcome(state, exit_code))


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        ("", {"queue": queued("PENDING")}, LIVE),
        (START, {"queue": queued("RUNNING")}, LIVE),
        (START, {"queue": queued("SUSPENDED")}, LIVE),
        # Requeued after its end line, or just completing.
        (START + BAD, {"queue": queued("PENDING")}, LIVE),
        (START + GOOD, {"queue": queued("COMPLETING")}, LIVE),
        (START + BAD, {"queue": queued("REQUEUE_HOLD"), "sacct": accounted("FAILED", 3)}, LIVE),
        (START, {"queue": queued("SPECIAL_EXIT"), "sacct": accounted("NODE_FAIL")}, LIVE),
        (START + GOOD, {"sacct": accounted("COMPLETED")}, OVER),
        (START + GOOD, {"queue": queued("COMPLETED"), "sacct": accounted("COMPLETED")}, OVER),
        (START + BAD, {"sacct": accounted("FAILED", 3)}, ended(JobState.FAILED, 3)),
        (START, {"sacct": accounted("OUT_OF_MEMORY", 0)}, ended(JobState.OUT_OF_MEMORY, 0)),
        ("", {"sacct": accounted("CANCELLED by 0")}, ended(JobState.CANCELLED, 0)),
        # sacct has nothing yet, or nothing final, or does not answer, or refuses.
        (START + GOOD, {}, OVER),
        (START + BAD, {}, OVER),
        (START + BAD, {"queue": queued("FAILED")}, OVER),
        (START + BAD, {"sacct": accounted("RUNNING")}, OVER),
        ("", {}, OVER),
        # Where none is kept, the end line tells, and without one its patience.
        (START + GOOD, {"off": True}, OVER),
        (START + BAD, {"off": True}, ended(JobState.FAILED, 3)),
        (START, {"off": True, "queue": queued("TIMEOUT")}, ended(JobState.TIMEOUT)),
        (START, {"off": True}, OVER),
        # Of another job of this attempt.
        ("start 16 0 1.0 n1\nend 16 0 3 2.0 0 0 0\n", {"off": True}, OVER),
        # A site's plugin has changed the name.
        (START, {"queue": queued("RUNNING", name="site-1", where=OURS)}, LIVE),
        (START, {"sacct": accounted("TIMEOUT", name="site-1", where=OURS)}, ended(JobState.TIMEOUT, 0)),
        # Another's job has the number.
        (START, {"queue": queued("RUNNING", name="stranger", where=THEIRS)}, Stand()),
        ("", {"sacct": accounted("FAILED", 1, name="stranger", where=THEIRS)}, OVER),
        (START + GOOD, {"sacct": accounted("FAILED", 1, name="stranger", where=THEIRS)}, OVER),
        # COMPLETED without an end line: who follows it waits for one.
        (START, {"sacct": accounted("COMPLETED")}, OVER),
        # A job that squeue was not asked about.
        (START + BAD, {"asked": False}, Stand()),
    ],
)
def test_at_one_look(status: str, said: dict[str, Any], expected: Stand) -> None:
    directory = RunDirectory("/b", "run", KEY)
    attempt = AttemptRecord(directory, "1", marks=parse_marks(status)[0], claims=(claim_record(0, "17", "17"),))
    answers = SlurmAnswers(
        {"17": said["queue"]} if "queue" in said else {},
        frozenset({"17"} if said.get("asked", True) else ()),
        accounting={"17": said["sacct"]} if "sacct" in said else {},
        is_accounting_off=said.get("off", False),
    )
    assert stand_of("17", attempt, answers) == expected


@pytest.mark.parametrize(("state", "expected"), [("PENDING", LIVE), ("RUNNING", LIVE), ("FAILED", OVER)])
def test_of_a_job_that_is_known_by_its_name(state: str, expected: Stand) -> None:
    attempt = AttemptRecord(RunDirectory("/b", "run", KEY, 2), "1", claims=(claim_record(1),))
    answers = SlurmAnswers(names={f"{KEY}.2.1": queued(state, "18", name=f"{KEY}.2.1")})
    assert stand_of("18", attempt, answers) == expected
