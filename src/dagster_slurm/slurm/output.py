"""The parsers that belong to `commands`: text of squeue, sacct, sbatch and sinfo to frozen values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from dagster_slurm.errors import SlurmOutputError
from dagster_slurm.slurm.commands import SACCT_FIELDS, SQUEUE_FIELDS, SQUEUE_OF_USER_FIELDS
from dagster_slurm.slurm.job_id import JobId
from dagster_slurm.slurm.quantities import (
    parse_elapsed_seconds,
    parse_memory_bytes,
    parse_timestamp,
    parse_tres,
)
from dagster_slurm.slurm.rejections import classify_error, is_accounting_disabled, is_unknown_job
from dagster_slurm.slurm.states import JobState, cancelled_by_uid, parse_job_state

__all__ = [
    "AccountingRecord",
    "AccountingStep",
    "QueueEntry",
    "UserQueueEntry",
    "classify_error",
    "is_accounting_disabled",
    "is_unknown_job",
    "parse_job_id",
    "parse_sacct",
    "parse_slurm_version",
    "parse_squeue",
    "parse_squeue_of_user",
]

_T = TypeVar("_T")
_NOTHING = frozenset({"", "N/A", "None", "(null)", "Unknown", "None assigned"})
_TO_START = re.compile(r"\bJob \d+ to start at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4})\b")
_SUBMITTED = re.compile(
    r"(?:(?P<parsable>[1-9]\d{0,17}(?:\.r\d{1,9})?)(?:;[^\s;]+)?"
    r"|Submitted batch job (?P<in_words>[1-9]\d{0,17})(?: on cluster \S+)?)",
    re.ASCII,
)
_VERSION = re.compile(r"slurm(?:-wlm)? (\d{1,9})\.(\d{1,9})(?!\d)\S*", re.ASCII)


_NEAR_SECONDS = 7200.0


@dataclass(frozen=True)
class QueueEntry:
    """One line of squeue: a job, or one task of a job array.

    Attributes:
        job_id: The job's own id.
        array_job_id: The id of its array; the job's own id outside an array.
        array_task_id: Its index, "1-9" for tasks that still wait together, None outside an array.
        name: The job's name.
        state: Its state.
        reason: Why it waits or ended ("Resources"), None if Slurm names none.
        node_list: Its nodes in Slurm's compact form, None before it has any.
        submit_time: When it was submitted, UTC.
        start_time: When it started or, while it waits, is expected to; UTC, None if not known.
        work_directory: Where it was submitted, or what `--chdir` says.
    """

    job_id: str
    array_job_id: str
    array_task_id: str | None
    name: str
    state: JobState
    reason: str | None
    node_list: str | None
    submit_time: datetime | None
    start_time: datetime | None
    work_directory: str | None = None


@dataclass(frozen=True)
class UserQueueEntry:
    """One line of squeue about a job of the user.

    Attributes:
        entry: What squeue is asked of every job.
        partition: Its partition, or several with commas between while it waits for any of them.
        elapsed_seconds: For how long it has run.
        left_seconds: How much of its time limit is left; None also without a limit.
        limit_seconds: Its time limit; None also without one.
        nodes: How many nodes it has, or asks for; None if not known.
        cpus: How many CPUs in all.
        memory: The memory it asks for, of a node or a CPU, as printed.
        tres: What else it asks for of each node, as printed; None for nothing.
    """

    entry: QueueEntry
    partition: str
    elapsed_seconds: float | None
    left_seconds: float | None = None
    limit_seconds: float | None = None
    nodes: int | None = None
    cpus: int | None = None
    memory: str | None = None
    tres: str | None = None


@dataclass(frozen=True)
class AccountingStep:
    """One step of a job: `batch`, `extern`, or the number of an srun.

    Attributes:
        name: What follows the job's id and a dot.
        state: Its state.
        exit_code: Its exit code, None if not known.
        signal: The signal that ended it, 0 for none, None if not known.
        tasks: Number of tasks, None if not known.
        node_count: Number of nodes, None if not known.
        max_rss_bytes: The largest resident set of any of its tasks, None if not sampled.
        usage_average: TRESUsageInAve, as printed.
        usage_max: TRESUsageInMax, as printed.
        usage_total: TRESUsageInTot, as printed.
        elapsed_seconds: Its wall time, None if not known.
        alloc_tres: What was allocated to it, as printed; empty if it was not asked for.
    """

    name: str
    state: JobState
    exit_code: int | None
    signal: int | None
    tasks: int | None
    node_count: int | None
    max_rss_bytes: int | None
    usage_average: Mapping[str, str]
    usage_max: Mapping[str, str]
    usage_total: Mapping[str, str]
    elapsed_seconds: float | None = None
    alloc_tres: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AccountingRecord:
    """What sacct knows of one job: its allocation and its steps. None where sacct has no value.

    Attributes:
        job_id: As displayed: "12", "12_3" for a task of an array, "12+1" for a component of a heterogeneous
            job.
        raw_job_id: The job's own number.
        name: The job's name.
        state: Its state.
        cancelled_by_uid: The numeric user id of who cancelled it.
        exit_code: Exit code of the batch script.
        signal: The signal that ended the batch script, 0 for none.
        derived_exit_code: The highest exit code of its steps (sacct(1), field DerivedExitCode).
        elapsed_seconds: Wall time of the last run.
        submit_time: UTC, as are the next three.
        eligible_time: When it became eligible to run.
        start_time: When it started.
        end_time: When it ended.
        node_list: Its nodes in Slurm's compact form.
        node_count: Number of nodes.
        cpus: Number of allocated CPUs.
        alloc_tres: What was allocated, as printed; empty if nothing.
        req_tres: What was asked for, as printed.
        req_mem: Field ReqMem, as printed.
        total_cpu_seconds: User and system CPU time of all its steps.
        max_rss_bytes: The largest resident set of any task of any step.
        reason: Why it last waited.
        restarts: How often it was requeued; older releases do not tell.
        steps: Its steps in the order of sacct.
        work_directory: Where it was submitted, or what `--chdir` says.
        limit_seconds: Its time limit; None without one, or if it was not asked for.
    """

    job_id: str
    raw_job_id: str
    name: str
    state: JobState
    cancelled_by_uid: int | None
    exit_code: int | None
    signal: int | None
    derived_exit_code: int | None
    elapsed_seconds: int | float | None
    submit_time: datetime | None
    eligible_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    node_list: str | None
    node_count: int | None
    cpus: int | None
    alloc_tres: Mapping[str, str]
    req_tres: Mapping[str, str]
    req_mem: str | None
    total_cpu_seconds: float | None
    max_rss_bytes: int | None
    reason: str | None
    restarts: int | None
    steps: tuple[AccountingStep, ...]
    work_directory: str | None = None
    limit_seconds: float | None = None

    @property
    def script_exit_code(self) -> int | None:
        """The exit code of a batch script that has ended by itself, and not with 0; None if it was ended, or is lost.

        A controller that was killed may have lost a job: it calls it FAILED 1:0, and its step CANCELLED (22.05.8).
        """
        batch = next((step for step in self.steps if step.name == "batch"), None)
        is_lost = batch is not None and batch.state.is_terminal and batch.state is not JobState.FAILED
        return None if is_lost or self.signal else self.exit_code or None

    def has_start_near(self, epoch_seconds: float | None) -> bool:
        """Whether it is a record without a name, of a job that started at about that time.

        So it is where slurmdbd has missed that the job was submitted: sacct prints `allocation` for a name, and
        neither a directory nor what was asked for (20.11, 22.05, of jobs of a second on a busy machine). Clocks of a
        site may be an hour apart.
        """
        is_nameless = self.name in ("", "allocation") and not self.work_directory
        if not is_nameless or epoch_seconds is None or self.start_time is None:
            return False
        return abs(self.start_time.timestamp() - epoch_seconds) <= _NEAR_SECONDS


def parse_job_id(text: str) -> str:
    """The job id in an answer of sbatch: a line "123", "123;cluster" or "Submitted batch job 123".

    Where the mailbox of a session is asked in its place, it is "123.r7".

    Other lines are passed over: a wrapper of the site, a job_submit plugin or a login message may print there.

    Raises:
        SlurmOutputError: There is no such line, or there are several with different numbers.
    """
    found = [match for line in text.splitlines() if (match := _SUBMITTED.fullmatch(line.strip()))]
    job_ids = {match["parsable"] or match["in_words"] for match in found}
    if len(job_ids) != 1:
        how = "more than one" if job_ids else "no"
        raise SlurmOutputError(f"sbatch printed {how} job id: {text.strip()[-200:]!r}", command="sbatch --parsable")
    return job_ids.pop()


def parse_start_estimate(text: str) -> datetime | None:
    """When a job would start, in what `sbatch --test-only` says: "Job 17 to start at 2026-11-22T09:58:57+0000 ...".

    Returns:
        An aware time; None where it says none, one that no clock shows, or one without its offset (see
        `commands.sbatch_test_only`).
    """
    match = _TO_START.search(text)
    try:
        return datetime.strptime(match.group(1), "%Y-%m-%dT%H:%M:%S%z") if match else None
    except ValueError:
        # An estimate is all it is: no job waits for it.
        return None


def parse_slurm_version(text: str) -> tuple[int, int]:
    """Major and minor number in "slurm 22.05.8", "slurm-wlm 22.05.8" (Debian) or "slurm 23.11.0-rc1".

    Raises:
        SlurmOutputError: No such line.
    """
    for line in text.splitlines():
        match = _VERSION.fullmatch(line.strip())
        if match:
            return int(match.group(1)), int(match.group(2))
    raise SlurmOutputError(f"no version of Slurm in {text[-200:]!r}", command="sinfo --version")


def parse_squeue(text: str, fields: Sequence[str] = SQUEUE_FIELDS) -> list[QueueEntry]:
    """Read the answer to `commands.squeue` and `commands.squeue_by_name`.

    Args:
        text: What squeue printed.
        fields: The fields it was asked for.

    Raises:
        SlurmOutputError: A line is not of that format.
    """
    return [_queue_entry(row) for row in _rows(text, fields, "squeue")]


def parse_squeue_of_user(text: str) -> list[UserQueueEntry]:
    """Read the answer to `commands.squeue_of_user`.

    Raises:
        SlurmOutputError: A line is not of that format.
    """
    return [_user_entry(row) for row in _rows(text, SQUEUE_OF_USER_FIELDS, "squeue")]


def parse_sacct(text: str, fields: Sequence[str] = SACCT_FIELDS) -> dict[str, AccountingRecord]:
    """Read the answer to `commands.sacct` and `commands.sacct_by_name`.

    A job that was requeued has one allocation line, with steps, for each run (`--duplicates`); the record is
    that of the last run, by its time of submission and then by its place in the answer.

    Args:
        text: What sacct printed.
        fields: The fields it was asked for, `commands.sacct_fields(version)`.

    Returns:
        Job id, as displayed, to record.

    Raises:
        SlurmOutputError: A line is not of that format.
    """
    jobs: dict[str, tuple[dict[str, str], list[AccountingStep]]] = {}
    current = older = ""
    for row in _rows(text, fields, "sacct"):
        part = JobId.parse(row["JobID"])
        job_id = str(part.whole)
        if part.step and (job_id in (current, older) or not part.step.isdecimal()):
            if job_id == current:
                jobs[job_id][1].append(_step(part.step, row))
            continue
        # A step that was asked about by itself is like a job.
        job_id = str(part)
        is_older = job_id in jobs and _submitted(row) < _submitted(jobs[job_id][0])
        current, older = ("", job_id) if is_older else (job_id, "")
        if not is_older:
            jobs[job_id] = (row, [])
    return {job_id: _record(row, tuple(steps)) for job_id, (row, steps) in jobs.items()}


def _rows(text: str, fields: Sequence[str], command: str) -> list[dict[str, str]]:
    rows = []
    before = min(fields.index(name) for name in ("job_id", "JobID") if name in fields)
    is_row = re.compile(rf"(?:[^|]*\|){{{before}}}\d[^\s|]*\|", re.ASCII)
    for line in text.split("\n"):
        # Without an id in its place it is a notice of the site.
        if not is_row.match(line):
            continue
        # The last two, name and directory, are free text.
        values = line.rstrip("\r").split("|", len(fields) - 2)
        values[-1:] = values[-1].rsplit("|", 1)
        if len(values) != len(fields):
            raise SlurmOutputError(
                f"not a line of {command} with {len(fields)} fields: {line[:200]!r}", command=command
            )
        rows.append(dict(zip(fields, (value.strip() for value in values), strict=True)))
    return rows


def _queue_entry(row: Mapping[str, str]) -> QueueEntry:
    if not row["job_id"].isdecimal():
        raise SlurmOutputError(f"not a job id: {row['job_id']!r}", command="squeue")
    return QueueEntry(
        job_id=row["job_id"],
        array_job_id=row["array_job_id"] or row["job_id"],
        array_task_id=_text(row["array_task_id"]),
        name=row["name"],
        state=parse_job_state(row["state"]),
        reason=_text(row["reason"]),
        node_list=_text(row["node_list"]),
        submit_time=parse_timestamp(row["submit_time"]),
        start_time=parse_timestamp(row["start_time"]),
        work_directory=_text(row.get("work_directory", "")),
    )


def _user_entry(row: Mapping[str, str]) -> UserQueueEntry:
    return UserQueueEntry(
        _queue_entry(row),
        row["partition"],
        _elapsed(row["elapsed"]),
        _elapsed(row["time_left"]),
        _elapsed(row["time_limit"]),
        _whole(row["nodes"]),
        _whole(row["cpus"]),
        _text(row["min_memory"]),
        _text(row["tres_per_node"]),
    )


def _step(name: str, row: Mapping[str, str]) -> AccountingStep:
    exit_code, signal = _exit(row.get("ExitCode", ""))
    return AccountingStep(
        name=name,
        state=parse_job_state(row["State"]),
        exit_code=exit_code,
        signal=signal,
        tasks=_known(row, "NTasks", _number),
        node_count=_known(row, "NNodes", _number),
        max_rss_bytes=_known(row, "MaxRSS", parse_memory_bytes),
        usage_average=parse_tres(row.get("TRESUsageInAve", "")),
        usage_max=parse_tres(row.get("TRESUsageInMax", "")),
        usage_total=parse_tres(row.get("TRESUsageInTot", "")),
        elapsed_seconds=_known(row, "ElapsedRaw", _number),
        alloc_tres=parse_tres(row.get("AllocTRES", "")),
    )


def _record(row: Mapping[str, str], steps: tuple[AccountingStep, ...]) -> AccountingRecord:
    exit_code, signal = _exit(row.get("ExitCode", ""))
    sampled = [step.max_rss_bytes for step in steps if step.max_rss_bytes is not None]
    return AccountingRecord(
        job_id=row["JobID"],
        raw_job_id=row.get("JobIDRaw", "") or row["JobID"],
        name=row.get("JobName", ""),
        state=parse_job_state(row["State"]),
        cancelled_by_uid=cancelled_by_uid(row["State"]),
        exit_code=exit_code,
        signal=signal,
        derived_exit_code=_exit(row.get("DerivedExitCode", ""))[0],
        elapsed_seconds=_known(row, "ElapsedRaw", _number),
        submit_time=_known(row, "Submit", parse_timestamp),
        eligible_time=_known(row, "Eligible", parse_timestamp),
        start_time=_known(row, "Start", parse_timestamp),
        end_time=_known(row, "End", parse_timestamp),
        node_list=_text(row.get("NodeList", "")),
        node_count=_known(row, "NNodes", _number),
        cpus=_known(row, "AllocCPUS", _number),
        alloc_tres=parse_tres(row.get("AllocTRES", "")),
        req_tres=parse_tres(row.get("ReqTRES", "")),
        req_mem=_text(row.get("ReqMem", "")),
        total_cpu_seconds=_known(row, "TotalCPU", parse_elapsed_seconds),
        max_rss_bytes=max(sampled, default=None),
        reason=_text(row.get("Reason", "")),
        restarts=_known(row, "Restarts", _number),
        steps=steps,
        work_directory=_text(row.get("WorkDir", "")),
        limit_seconds=_minutes(row.get("TimelimitRaw", "")),
    )


def _submitted(row: Mapping[str, str]) -> str:
    return row.get("Submit", "")


def _known(row: Mapping[str, str], name: str, parse: Callable[[str], _T]) -> _T | None:
    value = row.get(name, "")
    return parse(value) if value else None


def _text(value: str) -> str | None:
    return None if value in _NOTHING else value


def _elapsed(value: str) -> float | None:
    # squeue prints INVALID where the clocks of the cluster do not agree (squeue(1), %M), or a limit is exceeded (%L).
    return None if value in {*_NOTHING, "INVALID", "NOT_SET", "UNLIMITED"} else parse_elapsed_seconds(value)


def _whole(value: str) -> int | None:
    # It may be a range, "1-3", or rounded, "1K".
    return int(value) if re.fullmatch(r"\d{1,9}", value, re.ASCII) else None


def _number(value: str) -> int:
    if not re.fullmatch(r"\d{1,18}", value, re.ASCII):
        raise SlurmOutputError(f"not a whole number as Slurm prints them: {value!r}")
    return int(value)


def _minutes(value: str) -> float | None:
    # Otherwise it is a word, such as UNLIMITED or Partition_Limit.
    minutes = _whole(value)
    return None if minutes is None else 60.0 * minutes


def _exit(value: str) -> tuple[int | None, int | None]:
    """Exit code and signal in "7:0" (sacct(1), field ExitCode)."""
    if not value:
        return None, None
    code, _, signal = value.partition(":")
    return _number(code), _number(signal or "0")
