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
from dagster_slurm.slurm.rejections import is_throttled, refused_option
from dagster_slurm.slurm.states import JobState


@pytest.mark.parametrize(
    ("text", "job_id"),
    [
        ("123\n", "123"),
        ("123;cluster\n", "123"),
        ("Welcome!\n\n42\n\n", "42"),
        ("  7  ", "7"),
        # What sites print around it: a line of thanks, an answer in words (nipype#1330, dask-jobqueue#209).
        ("5\nbye", "5"),
        ("Your balance: 1000 hours\n17;beast\nThank you for using beast\n", "17"),
        ("Submitted batch job 5", "5"),
        ("Checking limits ...\nSubmitted batch job 5 on cluster beast\nDone\n", "5"),
        ("17\nSubmitted batch job 17\n", "17"),
        ("1000 hours left\n17\n", "17"),
    ],
)
def test_job_id(text: str, job_id: str) -> None:
    assert parse_job_id(text) == job_id


# Of several numbers nobody knows which is the job's: it is looked for by its name.
@pytest.mark.parametrize("text", ["", "\n", "Submitted batch job", "0", "-1", "12a", "٣", "5;", "1000\n17\n", "9" * 19])
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
        # What no clock shows.
        ("sbatch: Job 17 to start at 2026-11-22T99:58:57+0000 using 2 processors", None),
        ("sbatch: Job 17 to start at 2026-02-30T09:58:57+0000 using 2 processors", None),
        ("sbatch: Job 17 to start at 2026-11-22T09:58:57+9999 using 2 processors", None),
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


NOTICES = [
    "Maintenance on Monday, 9 to 12\n{}",
    "{}*** beast | login1 | ask help@beast ***\n",
    "\n  24 h until | the maintenance\n{}\n\n",
    "squeue is cached for 60 s\r\n{}",
]


@pytest.mark.parametrize("notice", NOTICES)
def test_a_notice_of_the_site_is_no_line(notice: str) -> None:
    """It made the whole answer unreadable."""
    queue = "17|17|N/A|RUNNING|N/A|N/A|None|n1|name|/\n18|18|N/A|PENDING|N/A|N/A|None||name|/\n"
    assert parse_squeue(notice.format(queue)) == parse_squeue(queue)
    accounting = f"{_line(JobID='5', State='FAILED')}\n{_line(JobID='5.batch', State='FAILED')}\n"
    fields = sacct_fields((25, 11))
    assert parse_sacct(notice.format(accounting), fields) == parse_sacct(accounting, fields)
    assert parse_squeue(notice.format("")) == []


@pytest.mark.parametrize("line", ["1|2", "1x|1|N/A|RUNNING|N/A|N/A|None||n|/", "1|1|N/A|NOSUCH|N/A|N/A|None||n|/"])
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
            "sbatch: error: AssocGrpCPUMinutesLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)",
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
        # While a site goes from one release to the next (slurm_errno.h).
        *(
            (
                command,
                f"{said}Incompatible versions of client and server code",
                SlurmUnavailableError,
                "releases",
            )
            for command, said in (
                ("sbatch x", "sbatch: error: Batch job submission failed: "),
                ("sbatch --test-only", "allocation failure: "),
                ("squeue", "slurm_load_jobs error: "),
            )
        ),
        *(
            ("sbatch x", f"sbatch: error: Batch job submission failed: {said}", SlurmUnavailableError, "later")
            for said in (
                "Invalid authentication credential",
                "Failed to connect to authentication agent",
                "Communication connection failure",
                "Insane message length",
                "Controller is in standby mode, try a different controller",
            )
        ),
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


PLUGIN = """bash: warning: setlocale: LC_ALL: cannot change locale (xx)
sbatch: error: You have not asked for a GPU type.
sbatch: error: Use --gres=gpu:TYPE:1, or a reservation; connection refused otherwise.
sbatch: error: See https://beast/gpus
sbatch: error: Batch job submission failed: Unspecified error
"""
FULL = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n"


def test_a_plugin_s_reason_is_told_whole_and_is_no_pattern() -> None:
    """Its last line alone was shown, with the hint for whatever word stood anywhere in it."""
    found = classify_error("sbatch x", 1, PLUGIN)
    assert type(found) is SubmissionRejectedError
    assert found.message == (
        "sbatch: You have not asked for a GPU type.; Use --gres=gpu:TYPE:1, or a reservation; connection refused "
        "otherwise.; See https://beast/gpus; Batch job submission failed: Unspecified error"
    )
    assert found.hint == "Slurm refused the request; its message says why."


@pytest.mark.parametrize(
    ("command", "stderr"),
    [
        # MaxJobCount (slurm.conf(5)): asked whether it would take it, and asked to take it.
        ("sbatch --test-only", "allocation failure: Resource temporarily unavailable\n"),
        ("sbatch x", f"{FULL}{FULL}sbatch: error: Batch job submission failed: Resource temporarily unavailable\n"),
        # JobSubmitPlugins=throttle names no limit.
        ("sbatch --test-only", f"allocation failure: {POLICY}"),
        ("sbatch x", f"sbatch: error: Batch job submission failed: {POLICY}"),
        ("sbatch x", f"sbatch: Your project has 12 hours\nsbatch: error: Batch job submission failed: {POLICY}"),
    ],
)
def test_what_has_to_wait_for_a_place(command: str, stderr: str) -> None:
    """It was called a cluster that does not answer, or refused."""
    found = classify_error(command, 1, stderr)
    assert type(found) is SubmitLimitError
    assert ("MaxJobCount" in str(found.hint)) is ("Resource temporarily" in stderr)


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (f"sbatch: error: Reached jobs per hour limit\nsbatch: error: Batch job submission failed: {POLICY}", True),
        (f"sbatch: error: Reached jobs per hour limit\nallocation failure: {POLICY}", True),
        (f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: {POLICY}", False),
        ("allocation failure: Resource temporarily unavailable\n", False),
        ("sbatch: error: invalid partition specified: x\n", False),
        ("", False),
    ],
)
def test_what_counts_submissions(stderr: str, expected: bool) -> None:
    assert is_throttled(stderr) is expected


NO_MUNGE = (
    "{program}: error: If munged is up, restart with --num-threads=10\n"
    '{program}: error: Munge encode failed: Failed to connect to "/run/munge/munge.socket.2": Connection refused\n'
    "{program}: error: slurm_send_node_msg: auth_g_create: REQUEST_SUBMIT_BATCH_JOB has authentication error\n"
)


@pytest.mark.parametrize(
    ("command", "last"),
    [
        ("sbatch x", "sbatch: error: Batch job submission failed: Protocol authentication error\n"),
        ("sbatch --test-only", "allocation failure: Protocol authentication error\n"),
        # It came back while it was waited for.
        *(
            (
                "sbatch --test-only",
                "sbatch: error: slurm_msg_sendto: address:port=10.1.1.1:6817 msg_type=4012: Unexpected missing socket "
                "error\n"
                f"allocation failure{end}",
            )
            for end in ("", ":", ": ", ": Unexpected missing socket error")
        ),
        ("squeue", "slurm_load_jobs error: Protocol authentication error\n"),
        ("scancel 5", "scancel: error: Kill job error on job id 5: Protocol authentication error\n"),
        ("scontrol show config", "slurm_load_ctl_conf error: Protocol authentication error\n"),
        ("sinfo", "slurm_load_partitions: Protocol authentication error\n"),
        ("sacct", "sacct: error: Problem talking to the database: Protocol authentication error\n"),
    ],
)
def test_without_munge_slurm_does_not_answer(command: str, last: str) -> None:
    """As Slurm 22.05.8 says it where munged is dead; of sbatch it was called a refusal."""
    said = NO_MUNGE.format(program=command.split(maxsplit=1)[0]) + last
    assert type(classify_error(command, 1, said)) is SlurmUnavailableError


@pytest.mark.parametrize(
    ("stderr", "error"),
    [
        (
            f"{FULL}sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            SlurmUnavailableError,
        ),
        (f"{FULL}sbatch: error: Batch job submission failed: Invalid qos specification", SubmissionRejectedError),
        ("sbatch: error: slurm_receive_msg: Zero Bytes were transmitted or received", SlurmUnavailableError),
        (
            "sbatch: Connection refused is what you get\nsbatch: error: Batch job submission failed: No",
            SubmissionRejectedError,
        ),
    ],
)
def test_the_last_word_is_slurm_s(stderr: str, error: type[SlurmCommandError]) -> None:
    assert type(classify_error("sbatch x", 1, stderr)) is error


@pytest.mark.parametrize(
    ("stderr", "option"),
    [
        ("allocation failure: Invalid account or account/partition combination specified", "account"),
        (
            "sbatch: error: invalid partition specified: x\nallocation failure: Invalid partition name specified",
            "partition",
        ),
        ("allocation failure: Invalid qos specification", "qos"),
        ("sbatch: error: no such account in partition x\nallocation failure: Unspecified error", ""),
        ("", ""),
    ],
)
def test_the_option_that_is_refused(stderr: str, option: str) -> None:
    assert refused_option(stderr) == option
