"""squeue, asked for all jobs of the user at once."""

from __future__ import annotations

import pytest

from dagster_slurm.errors import SlurmOutputError
from dagster_slurm.slurm.commands import squeue_of_user
from dagster_slurm.slurm.output import parse_squeue_of_user
from dagster_slurm.slurm.states import JobState

_ASKED = "compute|1-02:03:04|2:00|1-04:00:00|2|8|300M|gres:gpu:1"
_LINE = f"{_ASKED}|17|17|N/A|RUNNING|2026-01-02T03:04:05|2026-01-02T03:05:05|None|n1|{{name}}|/home/me\n"


def test_it_asks_for_the_user_s_own_jobs_in_all_states() -> None:
    assert {"--me", "--states=all", "--noheader", "SLURM_BITSTR_LEN=0"} <= set(squeue_of_user())


@pytest.mark.parametrize("name", ["step-0123456789ab", "a | name | with bars"])
def test_a_line(name: str) -> None:
    (job,) = parse_squeue_of_user(_LINE.format(name=name))
    assert (job.partition, job.elapsed_seconds) == ("compute", 93784.0)
    assert (job.left_seconds, job.limit_seconds, job.nodes, job.cpus) == (120.0, 100800.0, 2, 8)
    assert (job.memory, job.tres) == ("300M", "gres:gpu:1")
    assert (job.entry.job_id, job.entry.state, job.entry.name) == ("17", JobState.RUNNING, name)


@pytest.mark.parametrize(("elapsed", "seconds"), [("0:00", 0.0), ("12:34", 754.0), ("INVALID", None), ("", None)])
def test_elapsed(elapsed: str, seconds: float | None) -> None:
    (job,) = parse_squeue_of_user(_LINE.format(name="n").replace("1-02:03:04", elapsed))
    assert job.elapsed_seconds == seconds


@pytest.mark.parametrize("said", ["UNLIMITED", "NOT_SET", "INVALID", "N/A"])
def test_without_a_limit_nothing_is_left_of_it(said: str) -> None:
    (job,) = parse_squeue_of_user(_LINE.format(name="n").replace("|2:00|1-04:00:00|", f"|{said}|{said}|"))
    assert (job.left_seconds, job.limit_seconds) == (None, None)


@pytest.mark.parametrize("count", ["1-3", "2K", ""])
def test_counts_that_are_none(count: str) -> None:
    (job,) = parse_squeue_of_user(_LINE.format(name="n").replace("|2|8|", f"|{count}|{count}|"))
    assert (job.nodes, job.cpus) == (None, None)


def test_no_job_at_all() -> None:
    assert parse_squeue_of_user("") == []


def test_another_format_is_refused() -> None:
    with pytest.raises(SlurmOutputError):
        parse_squeue_of_user(f"{_ASKED}|17|RUNNING\n")


def test_a_notice_of_the_site_is_no_line() -> None:
    line = _LINE.format(name="n")
    assert parse_squeue_of_user(f"*** beast | maintenance | soon ***\n{line}Ask help@beast\n") == parse_squeue_of_user(
        line
    )
