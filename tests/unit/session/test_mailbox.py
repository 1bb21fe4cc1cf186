"""The mailbox of a session's allocation (session/mail.sh), by itself: it needs a shell and nothing of Slurm."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from tests.support.waiting import at_the_same_time, eventually

import dagster_slurm.session

SCRIPT = Path(dagster_slurm.session.__file__).with_name("mail.sh")


class Mailbox:
    """That of one allocation, and attempts that ask it for steps."""

    def __init__(self, base: Path) -> None:
        self.runs = base / "with a blank" / "runs"
        self.allocation = self.runs / "sessions" / "session-1" / "0"
        self.requests = self.allocation / "mail" / "requests"
        self.requests.parent.mkdir(parents=True)
        self.requests.touch()

    def call(self, *words: str | Path) -> int:
        return subprocess.run(["sh", SCRIPT, self.allocation, *words], check=False, timeout=60).returncode

    def claim(self, name: str, allocation: str = "sessions/session-1/0") -> Path:
        attempt = self.runs / "run" / name / "0"
        claim = attempt / "claim" / "0"
        claim.mkdir(parents=True)
        (attempt / "session").write_text(f"{allocation} 12\n0 0 1 2 300 0 0\n")
        return claim

    def lines(self) -> list[str]:
        return [line for line in self.requests.read_text().splitlines() if line]


@pytest.fixture
def mailbox(tmp_path: Path) -> Mailbox:
    return Mailbox(tmp_path)


def outcome(claim: Path) -> tuple[str, str]:
    stdout = claim / "stdout"
    return (claim / "status").read_text().strip(), stdout.read_text().strip() if stdout.exists() else ""


def test_requests_are_numbered_and_answered_for(mailbox: Mailbox) -> None:
    claims = [mailbox.claim(name) for name in ("a", "b")]
    assert mailbox.call("add", *claims) == 0
    assert mailbox.lines() == [
        "run 1 run/a/0 0 a 0 0 1 2 300 0 0 .",
        "run 2 run/b/0 0 b 0 0 1 2 300 0 0 .",
    ]
    assert [outcome(claim) for claim in claims] == [("0", "12.r1"), ("0", "12.r2")]


def test_a_later_try_has_the_name_of_its_job(mailbox: Mailbox) -> None:
    claim = mailbox.claim("a")
    later = claim.with_name("3")
    claim.rename(later)
    assert mailbox.call("add", later) == 0
    assert mailbox.lines() == ["run 1 run/a/0 3 a.0.3 0 0 1 2 300 0 0 ."]


def test_what_is_of_another_allocation_is_left_to_that(mailbox: Mailbox) -> None:
    mine, other = mailbox.claim("a"), mailbox.claim("b", "sessions/session-1/1")
    assert mailbox.call("add", mine, other) == 0
    assert outcome(mine) == ("0", "12.r1")
    assert not (other / "status").exists()


def test_of_many_at_once_each_has_a_number_of_its_own(mailbox: Mailbox) -> None:
    claims = [mailbox.claim(f"step-{number}") for number in range(20)]
    assert set(at_the_same_time(lambda claim: mailbox.call("add", claim), claims, most=10)) == {0}
    assert sorted(outcome(claim)[1] for claim in claims) == sorted(f"12.r{number}" for number in range(1, 21))
    assert len(mailbox.lines()) == 20
    assert not (mailbox.requests.parent / "lock").exists()


def test_a_line_that_was_cut_off_spoils_no_other(mailbox: Mailbox) -> None:
    mailbox.requests.write_text("run 1 run/a/0 0 a 0 0 1 2")
    assert mailbox.call("say", "lease", "host-1") == 0
    assert mailbox.lines() == ["run 1 run/a/0 0 a 0 0 1 2", "lease host-1 ."]


def test_a_line_is_answered_with_the_wish_for_a_successor(mailbox: Mailbox) -> None:
    def said(*words: str) -> bytes:
        argv = ["sh", SCRIPT, mailbox.allocation, "say", *words]
        return subprocess.run(argv, check=True, capture_output=True).stdout

    assert said("lease", "relay") == b""
    assert said("relay") == b"relay\n"
    assert said("lease", "x") == b"relay\n"


def test_numbers_go_on_whatever_else_was_said(mailbox: Mailbox) -> None:
    first = mailbox.claim("a")
    assert mailbox.call("add", first) == 0
    with mailbox.requests.open("a") as requests:
        # That of a disk which was full has no number to count by.
        requests.write("\nlease x .\n" * 300 + "\nrun 17 run/b/0 0")
    second = mailbox.claim("c")
    assert mailbox.call("add", second) == 0
    assert [outcome(claim) for claim in (first, second)] == [("0", "12.r1"), ("0", "12.r2")]


def test_a_closed_one_takes_nothing(mailbox: Mailbox) -> None:
    assert mailbox.call("close", "0") == 0
    claim = mailbox.claim("a")
    assert mailbox.call("add", claim) == 0
    assert outcome(claim) == ("76", "")
    assert "the session has ended" in (claim / "stderr").read_text()
    assert mailbox.call("say", "end") == 76
    assert mailbox.lines() == ["close ."]


def test_it_is_not_closed_before_all_was_read(mailbox: Mailbox) -> None:
    assert mailbox.call("say", "lease", "x") == 0
    assert mailbox.call("close", "0") == 75
    read = mailbox.requests.read_text().count("\n")
    assert mailbox.call("close", str(read)) == 0


def test_one_that_is_gone_has_ended(mailbox: Mailbox) -> None:
    mailbox.requests.unlink()
    mailbox.requests.parent.rmdir()
    claim = mailbox.claim("a")
    assert mailbox.call("add", claim) == 0
    assert outcome(claim) == ("76", "")
    assert mailbox.call("say", "end") == 76


def test_a_lock_that_was_left_is_taken(mailbox: Mailbox) -> None:
    lock = mailbox.requests.parent / "lock"
    lock.mkdir()
    before = time.time() - 3600
    os.utime(lock, (before, before))
    assert mailbox.call("say", "lease", "x") == 0
    assert mailbox.lines() == ["lease x ."]


def test_of_two_that_find_a_lock_left_one_takes_it(mailbox: Mailbox, tmp_path: Path) -> None:
    """One has found it old, and is slow to remove it; the other holds the lock by then, and has counted."""
    programs, slow = tmp_path / "bin", tmp_path / "slow"
    programs.mkdir()
    for name, text in (
        ("sleep", "exit 0"),
        ("rmdir", f'if mkdir "{slow}" 2>/dev/null; then /bin/sleep 0.8; fi; exec /bin/rmdir "$@"'),
        ("tail", f'/usr/bin/tail "$@"; if rmdir "{slow}/first" 2>/dev/null; then /bin/sleep 1; fi'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    assert mailbox.call("add", mailbox.claim("before")) == 0
    lock = mailbox.requests.parent / "lock"
    lock.mkdir()
    os.utime(lock, (1, 1))
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    claims = [mailbox.claim(name) for name in ("a", "b")]
    argv = ["sh", str(SCRIPT), str(mailbox.allocation), "add"]
    with subprocess.Popen([*argv, claims[0]], env=environment) as one:
        eventually(slow.exists)
        (slow / "first").mkdir()
        assert subprocess.run([*argv, claims[1]], env=environment, check=False, timeout=60).returncode == 0
        assert one.wait(60) == 0
    assert sorted(outcome(claim)[1] for claim in claims) == ["12.r2", "12.r3"]
    assert sorted(path.name for path in mailbox.requests.parent.iterdir()) == ["requests"]
