"""Every end has a type: the whole table of states, and what each says is to be done."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from dagster_slurm import errors
from dagster_slurm.cluster.description import EndMark
from dagster_slurm.job.events import Ended
from dagster_slurm.job.failure import job_failure
from dagster_slurm.job.retrying import Chain, Outcome, RetryRules, decide_next
from dagster_slurm.slurm.output import AccountingRecord, parse_sacct
from dagster_slurm.slurm.request import merge
from dagster_slurm.slurm.states import JobState

EMPTY: dict[str, Any] = {field.name: None for field in fields(AccountingRecord)}
REQUEST = merge({"mem": "4G", "time_limit": "01:30:00"})

TABLE = {
    JobState.BOOT_FAIL: (errors.JobBootFailError, True, "Retry it"),
    JobState.CANCELLED: (errors.JobCancelledError, False, "Slurm does not say who"),
    JobState.DEADLINE: (errors.JobDeadlineError, False, "a later `deadline`"),
    JobState.FAILED: (errors.PayloadFailedError, False, None),
    JobState.LAUNCH_FAILED: (errors.JobLaunchFailedError, True, "without n7"),
    JobState.NODE_FAIL: (errors.JobNodeFailError, True, "without n7"),
    JobState.OUT_OF_MEMORY: (errors.JobOutOfMemoryError, True, "It had 4 GiB: raise `mem`"),
    JobState.PREEMPTED: (errors.JobPreemptedError, True, "that is not preempted"),
    JobState.RECONFIG_FAIL: (errors.JobBootFailError, True, "Retry it"),
    JobState.REVOKED: (errors.JobFailedError, False, "Another cluster"),
    JobState.TIMEOUT: (errors.JobTimeLimitError, True, "It had 01:30:00: raise `time_limit`"),
}


def failure_of(state: JobState, *, squeue_said: str | None = None, **options: object) -> errors.JobFailedError:
    known = {"state": state, "node_list": "n7", **{name: options.pop(name) for name in [*options] if name in KNOWN}}
    ended = Ended(state, AccountingRecord(**{**EMPTY, "steps": (), **known}), None, "n7", squeue_said)
    return job_failure(
        ended,
        job_id="12",
        host="login",
        stderr_tail="",
        slurm_log_tail="",
        kept_path="/base",
        request=REQUEST,
        **options,  # type: ignore[arg-type]
    )


KNOWN = {"reason", "cancelled_by_uid", "exit_code"}


def test_every_end_without_success_stands_in_the_table() -> None:
    assert set(TABLE) == {state for state in JobState if state.is_terminal and not state.is_success}


@pytest.mark.parametrize("state", TABLE, ids=str)
def test_table(state: JobState) -> None:
    kind, is_worth_retrying, hint = TABLE[state]
    error = failure_of(state, exit_code=7 if state is JobState.FAILED else None)
    assert type(error) is kind
    assert error.is_worth_retrying is is_worth_retrying
    assert (hint in error.hint) if hint and error.hint else error.hint is hint
    assert error.facts["node_list"] == "n7"
    assert (error.facts["asked_mem_mib"], error.facts["time_limit_seconds"]) == (4096, 5400)


@pytest.mark.parametrize(
    ("uid", "said"),
    [
        (0, "An administrator has cancelled it, or Slurm itself"),
        (1000, "The user with id 1000"),
        (None, "Slurm does not say who"),
    ],
)
def test_who_cancelled_it(uid: int | None, said: str) -> None:
    assert said in str(failure_of(JobState.CANCELLED, cancelled_by_uid=uid))


SCRIPT_FAILED = "12|12|FAILED|3:0|0:0{more}|job|\n12.batch|12.batch|FAILED|3:0|{more}|batch|\n"
LOST = Path(__file__).parents[2] / "recorded" / "22.05.8" / "lost-by-controller.sacct.json"
KILLED = LOST.with_name("killed-by-signal.sacct.json")


def recorded(path: Path) -> AccountingRecord:
    answer = json.loads(path.read_text())
    asked = next(word for word in answer["argv"] if word.startswith("--format="))
    (found,) = parse_sacct(answer["stdout"], tuple(asked.removeprefix("--format=").split(","))).values()
    return found


@pytest.mark.parametrize(
    ("record", "marked", "kind", "exit_code"),
    [
        # slurmctld was killed six seconds after the job's start: "the payload's fault, exit code 1".
        (recorded(LOST), None, errors.JobEndNotSeenError, None),
        # Somebody has killed the batch script, which passes the signal of its payload on as an exit code.
        (recorded(KILLED), None, errors.JobEndNotSeenError, 0),
        # No accounting, and no end line after two minutes.
        (None, None, errors.JobEndNotSeenError, None),
        # The disk was full: there is no end line, and its exit code is known.
        (parse_sacct(SCRIPT_FAILED.format(more="|" * 18))["12"], None, errors.PayloadFailedError, 3),
        (recorded(LOST), 1, errors.PayloadFailedError, 1),
        (recorded(KILLED), 137, errors.PayloadFailedError, 137),
    ],
)
def test_a_failure_is_the_payload_s_where_something_tells_it(
    record: AccountingRecord | None, marked: int | None, kind: type[errors.JobFailedError], exit_code: int | None
) -> None:
    mark = None if marked is None else EndMark("12", 0, marked, 0.0, {})
    ended = Ended(JobState.FAILED, record, mark, "n7")
    error = job_failure(ended, job_id="12", host="login", stderr_tail="", slurm_log_tail="", kept_path="/base")
    assert (type(error), error.exit_code) == (kind, exit_code)
    outcome = Outcome.of(JobState.FAILED, mark, record)
    again = decide_next(REQUEST, [outcome], RetryRules(), Chain()).again
    assert (again, error.is_worth_retrying) == ((True, True) if kind is errors.JobEndNotSeenError else (False, False))


NOT_OPENED = "12|12|FAILED|0:53|0:0{more}|job|\n12.batch|12.batch|FAILED|0:53|{more}|batch|\n"


@pytest.mark.parametrize(("is_removed", "record"), [(True, None), (False, NOT_OPENED.format(more="|" * 18))])
def test_a_job_that_finds_no_directory_where_it_starts(is_removed: bool, record: str | None) -> None:
    """It was "signal 53" of the payload."""
    known = parse_sacct(record)["12"] if record else None
    ended = Ended(JobState.FAILED, known, None, None, is_removed=is_removed)
    error = job_failure(ended, job_id="12", host="login", stderr_tail="", slurm_log_tail="", kept_path="/base")
    assert (type(error), error.signal) == (errors.JobLaunchFailedError, 0)
    assert error.first_line == "Launch failure: the log of Slurm job 12 could not be opened"
    assert "do not have remote_base" in str(error.hint)


def test_a_job_that_waited_too_long_has_not_started() -> None:
    error = failure_of(JobState.CANCELLED, gave_up_waiting=True)
    assert type(error) is errors.JobNotStartedError


@pytest.mark.parametrize(
    ("code", "options", "kind"),
    [
        ("Resources", {"gave_up_waiting": True}, errors.JobNotStartedError),
        ("JobHeldUser", {"gave_up_waiting": True}, errors.JobHeldError),
        ("JobHeldAdmin", {"gave_up_waiting": True, "cancelled_by_uid": 1000}, errors.JobHeldError),
        ("JobHeldUser", {}, errors.JobCancelledError),
        ("DependencyNeverSatisfied", {"gave_up_waiting": True, "cancelled_by_uid": 7}, errors.JobDependencyError),
        ("DependencyNeverSatisfied", {}, errors.JobDependencyError),
        ("DependencyNeverSatisfied", {"cancelled_by_uid": 7}, errors.JobCancelledError),
    ],
)
def test_a_job_that_never_started(code: str, options: dict[str, object], kind: type[errors.JobFailedError]) -> None:
    assert type(failure_of(JobState.CANCELLED, squeue_said=code, **options)) is kind


def test_slurm_cancels_what_can_never_start() -> None:
    assert type(failure_of(JobState.CANCELLED, reason="Dependency")) is errors.JobDependencyError
    by_a_user = failure_of(JobState.CANCELLED, reason="Dependency", cancelled_by_uid=7)
    assert type(by_a_user) is errors.JobCancelledError


def test_a_job_that_slurm_could_not_launch() -> None:
    assert type(failure_of(JobState.FAILED, reason="JobLaunchFailure")) is errors.JobLaunchFailedError
    assert type(failure_of(JobState.FAILED, reason="NonZeroExitCode", exit_code=7)) is errors.PayloadFailedError


def test_what_has_not_ended_has_no_error() -> None:
    with pytest.raises(KeyError):
        failure_of(JobState.RUNNING)


def test_completed_without_an_end_line_is_an_end_of_its_own() -> None:
    error = failure_of(JobState.COMPLETED)
    assert type(error) is errors.JobEndNotSeenError
    assert error.is_worth_retrying
    assert "no end line" in str(error)
