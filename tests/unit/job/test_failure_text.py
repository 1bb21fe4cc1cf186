"""What is said of a failed job: golden text, exit codes and signals."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from dagster_slurm.cluster.description import EndMark
from dagster_slurm.errors import JobFailedError
from dagster_slurm.job.events import Ended
from dagster_slurm.job.failure import job_failure
from dagster_slurm.slurm.output import AccountingRecord
from dagster_slurm.slurm.states import JobState

GOLDEN = """\
Slurm job 4711 did not succeed.
Slurm says:
    slurmstepd: error: Detected 1 oom-kill event(s)
Last lines of stderr:
    Traceback:
      MemoryError
State OUT_OF_MEMORY, exit code 137, signal 9, node n2; kept on me@login: /base/runs/r/k
Raise `mem` (or `mem_per_cpu`)."""

GOLDEN_SILENT = """\
Slurm job 4711 did not succeed.
It wrote nothing to stderr.
State NODE_FAIL, no exit code, node unknown; kept on me@login: /base/runs/r/k
Retry it; with `requeue=True` Slurm does so by itself."""


def record(**known: Any) -> AccountingRecord:
    empty: dict[str, Any] = {field.name: None for field in fields(AccountingRecord)}
    return AccountingRecord(**{**empty, "state": JobState.FAILED, "steps": (), **known})


def end_mark(code: int) -> EndMark:
    return EndMark("4711", 0, code, 0.0, {})


def failure_of(ended: Ended, *, stderr_tail: str = "", slurm_log_tail: str = "") -> JobFailedError:
    return job_failure(
        ended,
        job_id="4711",
        host="me@login",
        stderr_tail=stderr_tail,
        slurm_log_tail=slurm_log_tail,
        kept_path="/base/runs/r/k",
    )


def test_golden_text() -> None:
    ended = Ended(JobState.OUT_OF_MEMORY, None, end_mark(137), "n2")
    error = failure_of(
        ended,
        stderr_tail="Traceback:\n  MemoryError\n",
        slurm_log_tail="slurmstepd: error: Detected 1 oom-kill event(s)\n",
    )
    assert str(error) == GOLDEN
    assert (error.state, error.exit_code, error.signal, error.node) == ("OUT_OF_MEMORY", 137, 9, "n2")
    assert (error.kept_path, error.host, error.job_id) == ("/base/runs/r/k", "me@login", "4711")
    assert error.stderr_tail == "Traceback:\n  MemoryError\n"


def test_golden_text_when_nothing_is_known() -> None:
    assert str(failure_of(Ended(JobState.NODE_FAIL, None, None, None))) == GOLDEN_SILENT


@pytest.mark.parametrize(
    ("accounted", "marked", "exit_code", "signal"),
    [
        (None, None, None, 0),
        (None, 0, 0, 0),
        (None, 7, 7, 0),
        (None, 128, 128, 0),
        (None, 143, 143, 15),
        ((7, 0), None, 7, 0),
        ((0, 9), None, 0, 9),
        ((0, 15), 143, 143, 15),
        ((11, 0), 139, 139, 11),
        ((0, 125), None, 0, 0),
        ((None, None), 3, 3, 0),
    ],
)
def test_exit_code_and_signal(
    accounted: tuple[int | None, int | None] | None, marked: int | None, exit_code: int | None, signal: int
) -> None:
    known = record(exit_code=accounted[0], signal=accounted[1]) if accounted else None
    mark = None if marked is None else end_mark(marked)
    error = failure_of(Ended(JobState.FAILED, known, mark, None))
    assert (error.exit_code, error.signal) == (exit_code, signal)


def test_the_node_is_the_job_s_own_word_and_then_the_accounting_s() -> None:
    accounted = record(node_list="n[1-3]")
    assert failure_of(Ended(JobState.FAILED, accounted, None, "n2")).node == "n2"
    assert failure_of(Ended(JobState.FAILED, accounted, None, None)).node == "n[1-3]"
