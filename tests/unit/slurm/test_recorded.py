"""What real clusters printed (scripts/record_slurm_output.py), read by the parsers. No file goes unread."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from dagster_slurm.errors import SlurmCommandError, SlurmUnavailableError, SubmissionRejectedError
from dagster_slurm.slurm.commands import SQUEUE_FIELDS
from dagster_slurm.slurm.efficiency import job_metrics
from dagster_slurm.slurm.output import (
    AccountingRecord,
    QueueEntry,
    classify_error,
    is_accounting_disabled,
    is_unknown_job,
    parse_job_id,
    parse_sacct,
    parse_slurm_version,
    parse_squeue,
    parse_start_estimate,
)
from dagster_slurm.slurm.reasons import parse_reason
from dagster_slurm.slurm.states import JobState as S

RECORDED = Path(__file__).resolve().parents[2] / "recorded"
VERSIONS = sorted(path.parent for path in RECORDED.glob("*/version.sinfo.json"))
FILES = [path for version in VERSIONS for path in sorted(version.glob("*.json"))]


@dataclass(frozen=True)
class Answer:
    argv: list[str]
    returncode: int
    stdout: str
    stderr: str


def _read(path: Path) -> Answer:
    return Answer(**json.loads(path.read_text()))


def _release(version: Path) -> tuple[int, int]:
    return parse_slurm_version(f"slurm {version.name}")


def _fields(path: Path) -> tuple[str, ...]:
    """Those that sacct was asked for; of an older recording fewer."""
    asked = next(word for word in _read(path).argv if word.startswith("--format="))
    return tuple(asked.removeprefix("--format=").split(","))


def _queue(version: Path, case: str) -> list[QueueEntry]:
    return _entries(_read(version / f"{case}.squeue.json"))


def _entries(answer: Answer) -> list[QueueEntry]:
    asked = next(word for word in answer.argv if word.startswith("--format="))
    return parse_squeue(answer.stdout, SQUEUE_FIELDS[: asked.count("|") + 1])


def _accounting(version: Path, case: str) -> list[AccountingRecord]:
    path = version / f"{case}.sacct.json"
    return list(parse_sacct(_read(path).stdout, _fields(path)).values())


def test_there_are_recordings() -> None:
    assert VERSIONS


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recording_is_understood(path: Path) -> None:
    answer = _read(path)
    command = path.stem.rpartition(".")[2]
    if answer.returncode:
        found = classify_error(" ".join(answer.argv), answer.returncode, answer.stderr)
        assert found.hint or is_unknown_job(answer.stderr)
        assert str(found).startswith(f"{command}: ")
    elif command == "squeue":
        assert all(entry.submit_time for entry in _entries(answer))
    elif command == "sacct":
        records = parse_sacct(answer.stdout, _fields(path))
        assert all(job_metrics(record)["slurm_state"] == record.state for record in records.values())
    elif command == "sbatch" and "--parsable" in answer.argv:
        assert parse_job_id(answer.stdout)
    elif command == "sinfo":
        assert path.parent.name.startswith("{}.{:02d}".format(*parse_slurm_version(answer.stdout)))
    else:
        assert command in {"scancel", "scontrol", "sbatch"}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize(
    ("case", "state", "exit_code", "signal"),
    [
        ("completed", S.COMPLETED, 0, 0),
        ("failed-exit-7", S.FAILED, 7, 0),
        ("killed-by-signal", S.FAILED, 0, 9),
        ("out-of-memory", S.OUT_OF_MEMORY, 0, 125),
        ("timeout", S.TIMEOUT, 0, 0),
        ("two-nodes-with-steps", S.COMPLETED, 0, 0),
        ("failed-step", S.COMPLETED, 0, 0),
        ("cancelled-running", S.CANCELLED, 0, 0),
        ("cancelled-pending", S.CANCELLED, 0, 0),
        ("suspended", S.SUSPENDED, 0, 0),
        ("requeued-waiting", S.REQUEUED, 0, 0),
        ("requeued", S.FAILED, 3, 0),
    ],
)
def test_accounting(version: Path, case: str, state: S, exit_code: int, signal: int) -> None:
    (record,) = _accounting(version, case)
    if case == "requeued-waiting" and _release(version) >= (24, 11):
        # Its next run has a record of its own from then on, before it begins.
        state = S.PENDING
    assert (record.state, record.exit_code, record.signal) == (state, exit_code, signal)
    # 20.11 knows the name of a job from its end on: one that was suspended or requeued is called "allocation".
    nameless = {"allocation"} if _release(version) < (22, 5) and not state.is_terminal else set()
    assert record.name in {f"record-{case}", "record-held", "record-requeued"} | nameless
    assert record.submit_time is not None
    assert record.req_mem is not None
    if state.is_terminal and case != "cancelled-pending":
        assert record.start_time is not None
        assert record.end_time is not None
        assert (record.end_time - record.start_time).total_seconds() == record.elapsed_seconds
        assert record.alloc_tres["node"] == str(record.node_count)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_what_releases_print_in_ways_of_their_own(version: Path) -> None:
    release = _release(version)
    (completed,) = _accounting(version, "completed")
    (steps,) = _accounting(version, "two-nodes-with-steps")
    # For each node, and for each CPU; 20.11 says so.
    asked = ("100Mn", "200Mc") if release < (22, 5) else ("100M", "400M")
    assert (completed.req_mem, steps.req_mem) == asked
    (pending,) = _accounting(version, "cancelled-pending")
    assert (pending.start_time is None) is (release >= (24, 11))
    (requeued,) = _accounting(version, "requeued")
    assert (completed.restarts, requeued.restarts) == ((0, 1) if release >= (25, 11) else (None, None))
    (failed,) = _accounting(version, "failed-exit-7")
    assert failed.reason == ("NonZeroExitCode" if release < (22, 5) else None)
    (killed,) = _queue(version, "killed-by-signal")
    assert killed.reason == ("RaisedSignal:9(Killed)" if release >= (24, 11) else "JobLaunchFailure")
    assert parse_reason(killed.reason).is_known
    estimate = parse_start_estimate(_read(version / "tested-accepted.sbatch.json").stderr)
    assert estimate is not None and estimate.tzinfo is not None


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_dependency_on_an_unknown_job(version: Path) -> None:
    answer = _read(version / "dependency-on-unknown-job.sbatch.json")
    if _release(version) < (24, 11):
        (entry,) = _queue(version, "dependency-on-unknown-job")
        assert (entry.state, entry.reason) == (S.COMPLETED, None)
        return
    found = classify_error(" ".join(answer.argv), answer.returncode, answer.stderr)
    assert type(found) is SubmissionRejectedError
    assert "The job named in dependency is not known" in str(found.hint)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_accounting_in_detail(version: Path) -> None:
    (steps,) = _accounting(version, "two-nodes-with-steps")
    assert (steps.node_list, steps.node_count, steps.cpus) == ("n[1-2]", 2, 2)
    assert [step.name for step in steps.steps] == ["batch", "0"]
    assert steps.max_rss_bytes == max(step.max_rss_bytes or 0 for step in steps.steps)
    assert (steps.total_cpu_seconds or 0) > 0
    (failed,) = _accounting(version, "failed-step")
    assert (failed.steps[-1].state, failed.steps[-1].exit_code, failed.derived_exit_code) == (S.FAILED, 9, 9)
    (killed,) = _accounting(version, "killed-by-signal")
    assert (killed.steps[0].state, killed.steps[0].signal) == (S.CANCELLED, 9)
    (pending,) = _accounting(version, "cancelled-pending")
    assert (pending.node_list, pending.alloc_tres, pending.eligible_time) == (None, {}, None)
    for case in ("cancelled-pending", "cancelled-running"):
        (cancelled,) = _accounting(version, case)
        assert (cancelled.cancelled_by_uid or 0) > 0
    (requeued,) = _accounting(version, "requeued")
    assert [step.exit_code for step in requeued.steps] == [3]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_array(version: Path) -> None:
    job_id = parse_job_id(_read(version / "array.sbatch.json").stdout)
    records = _accounting(version, "array")
    assert [record.job_id for record in records] == [f"{job_id}_{task}" for task in range(3)]
    assert [record.exit_code for record in records] == [0, 1, 2]
    assert all(record.raw_job_id.isdecimal() for record in records)
    (held,) = _queue(version, "array-held")
    assert (held.array_job_id, held.array_task_id) == (job_id, "0-2%1")
    assert {entry.array_task_id for entry in _queue(version, "array")} == {"0", "1", "2"}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize(
    ("case", "states", "reasons"),
    [
        ("held", {S.PENDING}, {"JobHeldUser"}),
        ("held-by-name", {S.PENDING}, {"JobHeldUser"}),
        ("pending", {S.PENDING, S.RUNNING}, {"Resources", None}),
        ("suspended", {S.SUSPENDED}, {None}),
        ("cancelled-running-while-running", {S.RUNNING}, {None}),
        ("requeued-waiting", {S.PENDING}, {"BeginTime"}),
        ("out-of-memory", {S.OUT_OF_MEMORY}, {"OutOfMemory"}),
        ("failed-exit-7", {S.FAILED}, {"NonZeroExitCode"}),
    ],
)
def test_queue(version: Path, case: str, states: set[S], reasons: set[str | None]) -> None:
    entries = _queue(version, case)
    assert {entry.state for entry in entries} == states
    assert {entry.reason for entry in entries} == reasons


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_by_name_finds_a_job_that_was_never_eligible(version: Path) -> None:
    assert [record.state for record in _accounting(version, "held-by-name")] == [S.CANCELLED]
    assert _accounting(version, "no-such-name") == _queue(version, "no-such-name") == []


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize(
    ("case", "hint"),
    [
        ("wrong-partition", "partitions"),
        ("wrong-account", "accounts"),
        ("wrong-qos", "QOS"),
        ("wrong-gres", "generic resources"),
        ("wrong-gpus", "generic resources"),
        ("wrong-constraint", "constraint"),
        ("wrong-reservation", "reservations"),
        ("wrong-node", "nodelist"),
        ("wrong-dependency", "dependency"),
        ("wrong-license", "licenses"),
        ("wrong-begin", "man sbatch"),
        ("unknown-option", "man sbatch"),
        ("invalid-value", "mem"),
        ("too-much-memory", "mem_per_cpu"),
        ("too-many-cpus", "cpus"),
        ("too-many-nodes", "num_nodes"),
        ("too-long", "time_limit"),
        ("too-long-for-partition", "time_limit"),
        ("tested-wrong-partition", "partitions"),
        ("tested-wrong-account", "accounts"),
        ("tested-too-much-memory", "configured"),
    ],
)
def test_rejections(version: Path, case: str, hint: str) -> None:
    answer = _read(version / f"{case}.sbatch.json")
    found = classify_error(" ".join(answer.argv), answer.returncode, answer.stderr)
    assert type(found) is SubmissionRejectedError
    assert hint in str(found.hint)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("command", ["sbatch", "squeue", "sacct", "scontrol"])
def test_no_connection(version: Path, command: str) -> None:
    answer = _read(version / f"unreachable.{command}.json")
    found = classify_error(command, answer.returncode, answer.stderr)
    assert type(found) is SlurmUnavailableError
    assert not is_unknown_job(answer.stderr)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_no_accounting(version: Path) -> None:
    answer = _read(version / "no-accounting.sacct.json")
    assert is_accounting_disabled(answer.stderr)
    assert type(classify_error("sacct", answer.returncode, answer.stderr)) is SlurmCommandError


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_unknown_jobs(version: Path) -> None:
    one = _read(version / "unknown-job.squeue.json")
    assert (one.returncode, is_unknown_job(one.stderr)) == (1, True)
    assert type(classify_error("squeue", one.returncode, one.stderr)) is SlurmCommandError
    several = _read(version / "unknown-jobs.squeue.json")
    assert (several.returncode, several.stdout, several.stderr) == (0, "", "")
    assert _read(version / "unknown-job.sacct.json").stdout == ""
    assert _read(version / "unknown-job.scancel.json").returncode == 0
