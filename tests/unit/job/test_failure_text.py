"""What is said of a failed job: golden text, exit codes and signals."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from dagster_slurm.cluster.description import EndMark
from dagster_slurm.errors import JobFailedError
from dagster_slurm.job.events import Ended
from dagster_slurm.job.failure import job_failure
from dagster_slurm.slurm.output import AccountingRecord
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.slurm.states import JobState

GOLDEN = """\
Out of memory: Slurm job 4711 on n2
Raise `mem` (or `mem_per_cpu`).
Slurm says:
    slurmstepd: error: Detected 1 oom-kill event(s)
Last lines of stderr:
    Traceback:
      MemoryError
State OUT_OF_MEMORY, exit code 137, signal 9, node n2; kept on me@login: /base/runs/r/k"""

GOLDEN_SILENT = """\
Node failure: Slurm job 4711 has lost a node
Retry it; with `requeue=True` Slurm does so by itself.
It wrote nothing to stderr.
State NODE_FAIL, no exit code, node unknown; kept on me@login: /base/runs/r/k"""

TRACEBACK = """\
Traceback (most recent call last):
  File "/run/work/prices.py", line 3, in <module>
    rows["price"]
    ~~~~^^^^^^^^^
KeyError: 'price'
"""


def record(**known: Any) -> AccountingRecord:
    empty: dict[str, Any] = {field.name: None for field in fields(AccountingRecord)}
    return AccountingRecord(**{**empty, "state": JobState.FAILED, "steps": (), **known})


def end_mark(code: int) -> EndMark:
    return EndMark("4711", 0, code, 0.0, {})


def failure_of(ended: Ended, *, stderr_tail: str = "", slurm_log_tail: str = "", **known: Any) -> JobFailedError:
    return job_failure(
        ended,
        **known,
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


def first_line_of(ended: Ended, **known: Any) -> str:
    return str(failure_of(ended, **known)).splitlines()[0]


@pytest.mark.parametrize(
    ("code", "stderr", "line"),
    [
        (1, TRACEBACK, "KeyError: 'price' (exit code 1, Slurm job 4711 on n1)"),
        # The head of a long one is not in the last lines.
        (1, TRACEBACK.partition("\n")[2], "KeyError: 'price' (exit code 1, Slurm job 4711 on n1)"),
        (1, TRACEBACK + "\nsrun: error: n1: task 0: Exited with exit code 1\n", "KeyError: 'price' (exit code 1, "),
        (1, "".join(f"0: {line}\n" for line in TRACEBACK.splitlines()), "KeyError: 'price' (exit code 1, "),
        (1, TRACEBACK.replace("KeyError: 'price'", "shop.errors.Closed"), "shop.errors.Closed (exit code 1, "),
        (1, TRACEBACK + TRACEBACK.replace("KeyError: 'price'", "ValueError: no"), "ValueError: no (exit code 1, "),
        # It was caught, and told of.
        (3, TRACEBACK + "no prices today\n", "Exit code 3, Slurm job 4711 on n1: no prices today"),
        (1, TRACEBACK.replace("KeyError: 'price'", ""), "Exit code 1, Slurm job 4711 on n1: ~~~~^^^^^^^^^"),
        (3, "a warning\n\nno such column: price\n\n", "Exit code 3, Slurm job 4711 on n1: no such column: price"),
        (
            74,
            "x\ndagster-slurm: no pyspark\ndagster-slurm: it has failed\n",
            "Exit code 74, Slurm job 4711 on n1: no pyspark",
        ),
        (3, "", "Exit code 3, Slurm job 4711 on n1"),
        (139, "x\n", "Signal 11 (SIGSEGV), Slurm job 4711 on n1: x"),
        (3, "\x1b[31mred\n", "Exit code 3, Slurm job 4711 on n1: \\x1b[31mred"),
        (3, "x" * 5000, f"Exit code 3, Slurm job 4711 on n1: {'x' * 297}..."),
    ],
)
def test_of_a_payload_the_first_line_is_its_exception_or_its_last_line(code: int, stderr: str, line: str) -> None:
    text = first_line_of(Ended(JobState.FAILED, None, end_mark(code), "n1"), stderr_tail=stderr)
    assert text.startswith(line)
    assert line.endswith("1, ") or text == line


def test_on_this_machine_there_is_no_job() -> None:
    error = job_failure(
        Ended(JobState.FAILED, None, end_mark(1), "laptop"),
        job_id="",
        host="laptop",
        stderr_tail=TRACEBACK,
        slurm_log_tail="",
        kept_path="/tmp/x",
        kept="nothing was kept",
    )
    first, *_, last = str(error).splitlines()
    assert first == "KeyError: 'price' (exit code 1, on laptop)"
    assert last == "State FAILED, exit code 1, node laptop; nothing was kept"


@pytest.mark.parametrize(
    ("stderr", "named"),
    [
        ("ModuleNotFoundError: No module named 'sklearn.linear'", ["sklearn.linear"]),
        ("shop.ModuleNotFoundError: No module named 'sklearn'", []),
        ("ImportError: No module named 'sklearn'", []),
    ],
)
def test_a_module_that_is_missing_is_asked_about(stderr: str, named: list[str]) -> None:
    asked: list[str] = []

    def missing(module: str) -> str:
        asked.append(module)
        return "Add it."

    said = TRACEBACK.replace("KeyError: 'price'", stderr)
    error = failure_of(Ended(JobState.FAILED, None, end_mark(1), "n1"), stderr_tail=said, missing=missing)
    assert asked == named
    assert error.hint == ("Add it." if named else None)


@pytest.mark.parametrize(
    ("state", "known", "line"),
    [
        (
            JobState.OUT_OF_MEMORY,
            {"request": JobRequest(mem_mib=200)},
            "Out of memory: Slurm job 4711 used all of its 200 MiB on n1",
        ),
        (
            JobState.OUT_OF_MEMORY,
            {"request": JobRequest(mem_per_cpu_mib=1536)},
            "Out of memory: Slurm job 4711 used all of its 1.5 GiB a CPU on n1",
        ),
        (
            JobState.TIMEOUT,
            {"request": JobRequest(time_limit_seconds=1800)},
            "Time limit: Slurm job 4711 was not done after its 00:30:00 on n1",
        ),
        (JobState.TIMEOUT, {}, "Time limit: Slurm job 4711 was not done on n1"),
        (JobState.PREEMPTED, {}, "Preempted: another job took the place of Slurm job 4711 on n1"),
        (JobState.LAUNCH_FAILED, {}, "Launch failure: Slurm job 4711 could not be started on n1"),
        (JobState.BOOT_FAIL, {}, "Boot failure: the nodes of Slurm job 4711 did not boot on n1"),
        (JobState.DEADLINE, {}, "Deadline: Slurm job 4711 could not be done before it on n1"),
        (JobState.CANCELLED, {}, "Cancelled: Slurm job 4711 on n1"),
    ],
)
def test_the_first_line_has_cause_figure_and_place(state: JobState, known: dict[str, Any], line: str) -> None:
    assert first_line_of(Ended(state, None, None, "n1"), **known) == line


def test_who_has_cancelled_it_is_in_the_first_line() -> None:
    accounted = record(state=JobState.CANCELLED, cancelled_by_uid=1001)
    line = first_line_of(Ended(JobState.CANCELLED, accounted, None, "n1"))
    assert line == "Cancelled by the user with id 1001: Slurm job 4711 on n1"


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("BeginTime", "Waited 7 s for BeginTime, more than max_queue_hours: Slurm job 4711 was cancelled"),
        # A plug-in of the site may say anything.
        ("{job} {0}", "Waited 7 s for {job} {0}, more than max_queue_hours: Slurm job 4711 was cancelled"),
        (None, "Waited 7 s, more than max_queue_hours: Slurm job 4711 was cancelled"),
    ],
)
def test_how_long_it_waited_and_for_what_is_in_the_first_line(reason: str | None, line: str) -> None:
    submitted = datetime(2026, 1, 1, tzinfo=timezone.utc)
    accounted = record(
        state=JobState.CANCELLED, submit_time=submitted, end_time=submitted + timedelta(seconds=7), reason=None
    )
    ended = Ended(JobState.CANCELLED, accounted, None, None, reason=reason)
    assert first_line_of(ended, gave_up_waiting=True) == line
