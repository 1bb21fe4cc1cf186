"""The argument vectors: what is always in them, and what may not get into them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.slurm import commands

ENV = ("env", "TZ=UTC", "SLURM_TIME_FORMAT=%Y-%m-%dT%H:%M:%S", "LC_ALL=C")


def test_sbatch() -> None:
    assert not any(set(word) & set(" \t\n") for word in commands.sbatch())
    assert commands.sbatch_test_only()[2:4] == ("sbatch", "--test-only")


def test_squeue() -> None:
    argv = commands.squeue(["1", "2_3", "2_4", "2.0", "1+1"])
    assert argv[: len(ENV)] == ENV
    assert argv[len(ENV) : len(ENV) + 4] == ("SLURM_BITSTR_LEN=0", "squeue", "--noheader", "--states=all")
    assert argv[-2:] == ("--me", "--jobs=1,2")
    assert commands.squeue(["1"])[-1] == "--jobs=1"
    assert "--me" not in commands.squeue(["1"])
    assert argv[-3].endswith("|%j|%Z")
    assert argv[-3].count("|") == len(commands.SQUEUE_FIELDS) - 1
    assert commands.squeue_by_name("n")[-2:] == ("--me", "--name=n")


def test_parts_of_a_job_are_asked_about_and_cancelled_by_their_own_ids() -> None:
    parts = ["7_1", "7+1", "7.4"]
    assert commands.sacct(parts)[-1] == "--jobs=7_1,7+1,7.4"
    assert commands.scancel(parts) == ("scancel", *parts)


def test_sacct() -> None:
    argv = commands.sacct(["7"])
    assert {"--noheader", "--parsable2", "--duplicates", "--jobs=7"} <= set(argv)
    assert commands.sacct_fields()[-2:] == ("JobName", "WorkDir")
    assert "Restarts" not in commands.sacct_fields((22, 5))
    assert "Restarts" in commands.sacct_fields((25, 11))


def test_sacct_by_name_always_has_a_window_and_states() -> None:
    since = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    argv = commands.sacct_by_name("n", since)
    assert "--starttime=2026-02-28T23:30:00" in argv
    assert "--endtime=now+1day" in argv
    assert any(word.startswith("--state=") for word in argv)


def test_the_others() -> None:
    assert commands.scancel(["1", "2"]) == ("scancel", "1", "2")
    assert commands.scancel(["1"], "USR1") == ("scancel", "--signal=USR1", "--full", "1")
    assert commands.scancel_by_name("n", user="u") == ("scancel", "--user=u", "--name=n")
    assert commands.scontrol_show_job("5")[len(ENV) :] == ("scontrol", "show", "job", "--oneliner", "5")
    assert commands.sinfo_version() == ("sinfo", "--version")


@pytest.mark.parametrize("job_id", ["", "-1", "1;rm", "$(id)", "1 2", "1,2", "a", "1\n"])
def test_job_ids_are_checked(job_id: str) -> None:
    for build in (commands.squeue, commands.sacct, commands.scancel):
        with pytest.raises(InvalidRequestError):
            build([job_id])


@pytest.mark.parametrize("name", ["", "-x", "a\nb", "a\0b"])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        commands.sbatch_test_only(name)
    with pytest.raises(InvalidRequestError):
        commands.scancel_by_name(name)


def test_no_jobs_is_refused_because_it_would_mean_all() -> None:
    for build in (commands.squeue, commands.sacct, commands.scancel):
        with pytest.raises(InvalidRequestError):
            build([])
    with pytest.raises(InvalidRequestError):
        commands.scancel_by_name("a,b")


def test_the_accounting_of_the_user() -> None:
    since = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    argv = commands.sacct_of_user(since=since)
    assert argv[: len(ENV)] == ENV
    assert argv[-1] == "--starttime=2026-01-02T01:04:05"
    assert argv[-2].partition("=")[2].split(",") == [*commands.sacct_of_user_fields()]
    assert commands.sacct_of_user(job_ids=["12", "13_1"])[-1] == "--jobs=12,13_1"


def test_a_shell_in_a_job() -> None:
    assert commands.shell_in_job("12", "/b/work")[:3] == ("srun", "--jobid=12", "--overlap")
    assert {"--relative=0", "--chdir=/b/work", "--pty"} <= set(commands.shell_in_job("12", "/b/work"))
    assert "--nodelist=n2" in commands.shell_in_job("12", None, "n2")
    assert "--het-group=1" in commands.shell_in_job("12", None, component=1)
    for job_id, directory, node in (
        ("12;id", None, None),
        ("12", "-x", None),
        ("12", None, "n1,n2"),
        ("12", None, "-w"),
    ):
        with pytest.raises(InvalidRequestError):
            commands.shell_in_job(job_id, directory, node)
