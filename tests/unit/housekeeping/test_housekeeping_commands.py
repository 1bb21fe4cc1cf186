"""The commands, with programs that stand in for Slurm's: for what has to fail on demand."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from dagster_slurm.cli import main
from dagster_slurm.errors import SlurmUnavailableError

# The package has the command under this name.
jobs_command = importlib.import_module("dagster_slurm.cli.jobs")
SQUEUE = """#!/bin/sh
echo squeue >>"$TRIAL/calls"
[ ! -e "$TRIAL/away" ] || { echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; }
"""
SACCT = """#!/bin/sh
echo sacct >>"$TRIAL/calls"
echo 'sacct: error: slurm_persist_conn_open: Connection refused' >&2
exit 1
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    for name, text in {"squeue": SQUEUE, "sacct": SACCT, "sbatch": "#!/bin/sh\n", "scancel": "#!/bin/sh\n"}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("TRIAL", str(tmp_path))
    monkeypatch.setenv("SLURM_REMOTE_BASE", str(tmp_path / "base"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def launch(here: Path, number: int, status: str) -> Path:
    directory = here / "base" / "runs" / f"run{number}" / f"step-{number:012x}" / "0"
    (directory / "claim" / "0").mkdir(parents=True)
    (directory / "log").mkdir()
    for name, text in {"protocol": "1\n", "log/status": status, "claim/0/status": "0\n"}.items():
        (directory / name).write_text(text)
    (directory / "claim" / "0" / "stdout").write_text(f"{number}\n")
    (directory / "claim" / "0" / "gate").symlink_to(str(number))
    return directory


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments], catch_exceptions=False)


def asked(here: Path) -> list[str]:
    return (here / "calls").read_text().split()


def test_nothing_there(here: Path) -> None:
    assert call("jobs", "--local").output == (
        "No job of a run waits or runs on this machine, and none ended just now; --all shows older ones.\n"
    )
    assert call("jobs", "--local", "--all").output == f"There is no job of a run in {here}/base on this machine.\n"
    assert call("clean", "--local", "--yes").output == f"Nothing is left over in {here}/base on this machine.\n"
    assert json.loads(call("jobs", "--local", "--json").output)["jobs"] == []
    assert json.loads(call("clean", "--local", "--json").output)["leftovers"] == []


def test_slurm_away_is_two_lines_and_removes_nothing(here: Path) -> None:
    directory = launch(here, 17, "start 17 0 1.0 n1\nend 17 0 1 2.0 0 0 0\n")
    (here / "away").touch()
    for command in ("jobs", "clean"):
        done = call(command, "--local", *(["--yes", "--all", "--older-than", "0s"] if command == "clean" else []))
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith("dagster-slurm: squeue: ")
        assert len(done.stderr.splitlines()) == 2
    assert directory.exists()


def test_one_question_for_all_jobs(here: Path) -> None:
    for number in range(17, 37):
        launch(here, number, f"start {number} 0 1.0 n1\n")
    call("clean", "--local")
    assert asked(here) == ["squeue", "sacct"]


def test_without_accounting_what_has_no_witness_stays(here: Path) -> None:
    lost, failed = launch(here, 17, "start 17 0 1.0 n1\n"), launch(here, 18, "start 18 0 1 n1\nend 18 0 1 2.0 0 0 0\n")
    done = call("clean", "--local", "--yes", "--older-than", "0s")
    assert (done.exit_code, lost.exists(), failed.exists()) == (0, True, True)
    assert "Jobs without a witness of their end are kept: sacct: " in done.stderr
    assert "--all removes it" in done.stdout
    done = call("clean", "--local", "--yes", "--all", "--older-than", "0s")
    assert (done.exit_code, lost.exists(), failed.exists()) == (0, False, False)
    assert (here / "base" / "runs").exists()


def test_jobs_of_directories_without_accounting(here: Path) -> None:
    launch(here, 17, "start 17 0 1.0 n1\nend 17 0 1 2.0 0 0 0\n")
    done = call("jobs", "--local", "--all")
    assert "are shown without Slurm's accounting: sacct: " in done.stderr
    assert done.stdout.splitlines()[1].split()[0] == "17"


def test_what_cannot_be_removed_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(here, 17, "start 17 0 1.0 n1\nend 17 0 1 2.0 0 0 0\n")
    (here / "bin" / "mv").write_text("#!/bin/sh\necho 'mv: Permission denied' >&2\nexit 1\n")
    (here / "bin" / "mv").chmod(0o755)
    done = call("clean", "--local", "--yes", "--all", "--older-than", "0s")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0].startswith("left ")
    assert done.stdout.splitlines()[-1].endswith("1 could not be removed, or have changed meanwhile.")


@pytest.mark.parametrize("duration", ["3", "d", "3 days", "-1d", "", "1.5h"])
def test_durations_that_are_none(duration: str) -> None:
    done = call("clean", "--local", "--older-than", duration)
    assert done.exit_code == 2
    assert "Give a number and one of s, m, h, d and w, as in 3d." in " ".join(done.stderr.split())


@pytest.mark.parametrize("command", ["jobs", "clean"])
def test_without_a_host_it_says_which_variable_is_missing(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_EDGE_NODE_HOST", raising=False)
    done = call(command)
    assert done.exit_code == 1
    assert "SLURM_EDGE_NODE_HOST" in done.stderr


def test_a_watch_outlasts_an_outage_but_not_at_its_beginning(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = SlurmUnavailableError("squeue: no answer", returncode=1, stderr="")

    def looks(answers: list[str | Exception]) -> Callable[[], str]:
        def look() -> str:
            if not answers:
                raise KeyboardInterrupt
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return look

    monkeypatch.setattr(jobs_command, "time", SimpleNamespace(sleep=lambda seconds: None, monotonic=lambda: 0.0))
    with pytest.raises(KeyboardInterrupt):
        jobs_command._watch(looks(["one", away, "two"]), 7)
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line and ":" not in line[:3]] == [
        "one",
        "squeue: no answer; it is asked again.",
        "two",
    ]
    with pytest.raises(SlurmUnavailableError):
        jobs_command._watch(looks([away]), 7)


def test_without_accounting_there_is_no_report(here: Path) -> None:
    done = call("report", "--local")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("dagster-slurm: sacct: ")
    (here / "bin" / "sacct").write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    done = call("report", "--local")
    assert (done.exit_code, done.stderr.splitlines()[0]) == (1, "dagster-slurm: this machine keeps no accounting")
