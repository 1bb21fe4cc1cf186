"""The parsers: forms that no recording has, and hostile text."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.errors import (
    SlurmCommandError,
    SlurmOutputError,
    SlurmUnavailableError,
    SubmissionRejectedError,
    SubmitLimitError,
)
from dagster_slurm.slurm.commands import sacct_fields
from dagster_slurm.slurm.output import (
    classify_error,
    is_unknown_job,
    parse_job_id,
    parse_sacct,
    parse_slurm_version,
    parse_squeue,
    parse_start_estimate,
)
from dagster_slurm.slurm.states import JobState


@pytest.mark.parametrize(
    ("text", "job_id"),
    [("123\n", "123"), ("123;cluster\n", "123"), ("Welcome!\n\n42\n\n", "42"), ("  7  ", "7")],
)
def test_job_id(text: str, job_id: str) -> None:
    assert parse_job_id(text) == job_id


@pytest.mark.parametrize("text", ["", "\n", "Submitted batch job 5", "0", "-1", "12a", "5\nbye", "٣", "5;"])
def test_no_job_id(text: str) -> None:
    with pytest.raises(SlurmOutputError):
        parse_job_id(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "sbatch: Job 17 to start at 2026-11-22T09:58:57+0100 using 2 processors on nodes n1 in partition compute\n",
            datetime(2026, 11, 22, 8, 58, 57, tzinfo=timezone.utc),
        ),
        ("sbatch: lua: hello\nsbatch: Job 1 to start at 2026-11-22T09:58:57-0030 using", "2026-11-22T10:28:57+00:00"),
        # Without an offset nobody knows which time that is.
        ("sbatch: Job 17 to start at 2026-11-22T09:58:57 using 2 processors", None),
        ("sbatch: Job 17 to start at Unknown", None),
        ("allocation failure: Requested nodes are busy", None),
        ("", None),
    ],
)
def test_start_estimate(text: str, expected: datetime | str | None) -> None:
    assert parse_start_estimate(text) == (datetime.fromisoformat(expected) if isinstance(expected, str) else expected)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("slurm 22.05.8\n", (22, 5)),
        ("slurm-wlm 22.05.8", (22, 5)),
        ("slurm 23.11.0-rc1", (23, 11)),
        ("motd\nslurm 20.11.9\n", (20, 11)),
    ],
)
def test_version(text: str, version: tuple[int, int]) -> None:
    assert parse_slurm_version(text) == version


def test_no_version() -> None:
    with pytest.raises(SlurmOutputError):
        parse_slurm_version("sinfo: not found")


def test_squeue_name_with_bars_and_array_tasks() -> None:
    line = "17|17|1-9%2|PENDING|2026-01-31T12:00:00|N/A|Priority||a|b c|/home/me"
    (entry,) = parse_squeue(line + "\n")
    assert (entry.name, entry.array_task_id, entry.reason, entry.node_list) == ("a|b c", "1-9%2", "Priority", None)
    assert entry.work_directory == "/home/me"
    assert entry.start_time is None
    assert parse_squeue("") == []


@pytest.mark.parametrize("line", ["1|2", "x|1|N/A|RUNNING|N/A|N/A|None||n|/", "1|1|N/A|NOSUCH|N/A|N/A|None||n|/"])
def test_squeue_of_another_form(line: str) -> None:
    with pytest.raises(SlurmOutputError):
        parse_squeue(line)


def _line(**values: str) -> str:
    return "|".join(values.get(field, "") for field in sacct_fields((25, 11)))


def test_sacct_keeps_the_last_run_with_its_own_steps() -> None:
    text = "\n".join(
        [
            _line(JobID="5", State="REQUEUED", Submit="2026-01-01T00:00:00", Restarts="0"),
            _line(JobID="5.batch", State="CANCELLED", MaxRSS="9G"),
            _line(
                JobID="5", State="COMPLETED", Submit="2026-01-01T00:01:00", Restarts="1", JobName="a|b", WorkDir="/w"
            ),
            _line(JobID="5.batch", State="COMPLETED", MaxRSS="1K"),
            _line(JobID="5.extern", State="COMPLETED", MaxRSS="2K"),
        ]
    )
    record = parse_sacct(text, sacct_fields((25, 11)))["5"]
    assert (record.state, record.restarts, record.name) == (JobState.COMPLETED, 1, "a|b")
    assert record.work_directory == "/w"
    assert [step.name for step in record.steps] == ["batch", "extern"]
    assert record.max_rss_bytes == 2048
    swapped = "\n".join(text.split("\n")[2:] + text.split("\n")[:2])
    assert parse_sacct(swapped, sacct_fields((25, 11)))["5"] == record


def test_sacct_of_a_job_of_which_nothing_is_known() -> None:
    record = parse_sacct(_line(JobID="5", State="PENDING"), sacct_fields((25, 11)))["5"]
    assert (record.exit_code, record.elapsed_seconds, record.max_rss_bytes, record.steps) == (None, None, None, ())


@given(st.text() | st.text(alphabet="0123456789|.\n:ACDELMOPT-", max_size=200))
def test_any_text_is_read_or_refused_with_the_typed_error(text: str) -> None:
    for parse in (parse_squeue, parse_sacct, parse_job_id, parse_slurm_version):
        with contextlib.suppress(SlurmOutputError):
            parse(text)


@given(st.lists(st.text(alphabet="0123456789KMG:.-=,/gpuCOMPLETD T", max_size=12), min_size=25, max_size=25))
def test_any_fields_are_read_or_refused_with_the_typed_error(values: list[str]) -> None:
    with contextlib.suppress(SlurmOutputError):
        parse_sacct("|".join(["5", "5", "COMPLETED", *values[3:]]), sacct_fields((25, 11)))


@pytest.mark.parametrize(
    ("command", "stderr", "error", "hint"),
    [
        (
            "sbatch --parsable x",
            "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, "
            "user's size and/or time limits)",
            SubmissionRejectedError,
            "limit of the account",
        ),
        ("sbatch x", "sbatch: error: QOSMaxCpuPerUserLimit", SubmissionRejectedError, "limit of the account"),
        *(
            (
                "sbatch --test-only x",
                f"sbatch: error: {reason}\nallocation failure: Job violates accounting/QOS policy (job submit limit, "
                "user's size and/or time limits)",
                SubmitLimitError,
                "when others have ended",
            )
            for reason in (
                "QOSMaxSubmitJobPerUserLimit",
                "QOSGrpSubmitJobsLimit",
                "AssocMaxSubmitJobLimit",
                "AssocGrpSubmitJobsLimit",
            )
        ),
        (
            "/opt/slurm/bin/sbatch x",
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            SlurmUnavailableError,
            "later",
        ),
        ("env TZ=UTC squeue", "slurm_load_jobs error: Unable to contact slurm controller", SlurmUnavailableError, ""),
        (
            "sacct",
            "sacct: error: slurmdbd: DBD_GET_JOBS_COND failure: No error",
            SlurmUnavailableError,
            "accounting",
        ),
        ("sacct", "Slurm accounting storage is disabled", SlurmCommandError, "no accounting"),
        (
            "sbatch x",
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
            SlurmUnavailableError,
            "",
        ),
        ("scancel 5", "scancel: error: Kill job error on job id 5: Access/permission denied", SlurmCommandError, ""),
    ],
)
def test_errors_that_were_not_recorded(command: str, stderr: str, error: type[SlurmCommandError], hint: str) -> None:
    found = classify_error(command, 1, stderr, "login1")
    assert type(found) is error
    assert hint in (found.hint or "")
    assert (found.returncode, found.stderr, found.host, found.command) == (1, stderr, "login1", command)


def test_command_not_found() -> None:
    found = classify_error("sbatch x", 127, "bash: sbatch: command not found")
    assert type(found) is SlurmCommandError
    assert "PATH" in str(found.hint)


def test_unknown_job() -> None:
    assert is_unknown_job("slurm_load_jobs error: Invalid job id specified\n")
    assert not is_unknown_job("Unable to contact slurm controller")


@given(st.text(), st.integers(0, 255), st.text())
def test_any_error_is_classified(command: str, returncode: int, stderr: str) -> None:
    assert isinstance(classify_error(command, returncode, stderr), SlurmCommandError)


# What slurmdbd 22.05.8 had of a job that ended before it had heard of its submission.
NAMELESS = (
    "4|4|FAILED|7:0|0:0|0|2026-11-29T02:58:50|Unknown|2026-11-29T02:58:50|2026-11-29T02:58:50|n1|1|1||"
    "billing=1,cpu=1,mem=100M,node=1||16?|00:00.003|||||None|allocation|\n"
)


@pytest.mark.parametrize(
    ("hours_apart", "is_near"), [(0.0, True), (1.0, True), (-1.0, True), (2.5, False), (-2.5, False)]
)
def test_a_record_without_a_name_is_told_by_its_start(hours_apart: float, is_near: bool) -> None:
    record = parse_sacct(NAMELESS)["4"]
    assert record.start_time is not None
    assert record.has_start_near(record.start_time.timestamp() + 3600 * hours_apart) is is_near
    assert not record.has_start_near(None)
    assert not replace(record, name="another").has_start_near(record.start_time.timestamp())
    assert not replace(record, work_directory="/home/me").has_start_near(record.start_time.timestamp())
