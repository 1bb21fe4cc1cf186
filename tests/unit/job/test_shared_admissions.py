"""What Slurm has said of requests, shared: two objects stand for two processes, and a real one is stopped."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.scripted import ScriptedTransport

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.shared import FULL_SECONDS, THROTTLED_SECONDS, Admissions, SharedDirectory
from dagster_slurm.errors import SubmissionRejectedError, SubmitLimitError
from dagster_slurm.slurm.request import JobRequest, merge
from dagster_slurm.transport import CompletedCommand
from dagster_slurm.transport.shell import verb

FACTS = verb("facts", "dagster_slurm.cluster_scripts")
NODES_AWAY = verb("nodes_away", "dagster_slurm.cluster_scripts")
TOO_MUCH = b"allocation failure: Requested node configuration is not available\n"
FULL = b"sbatch: error: QOSMaxSubmitJobPerUserLimit\nallocation failure: Job violates accounting/QOS policy\n"
# JobSubmitPlugins=throttle (22.05.8).
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n"
THROTTLED = f"sbatch: error: Reached jobs per hour limit\nsbatch: error: Batch job submission failed: {POLICY}"


class Site:
    """Counts the questions of all processes; full if told so."""

    def __init__(self) -> None:
        self.questions = 0
        self.is_full = False
        self.is_too_much = False
        self.has_nodes_away = False

    def process(self, directory: Path, clock: Callable[[], float], era: str = "this boot") -> SlurmCluster:
        admissions = Admissions(SharedDirectory(directory, clock=clock, era=era), patience_seconds=1.0)
        transport = ScriptedTransport(self._answer)
        return SlurmCluster(transport, admissions=admissions)

    def _answer(self, script: str, args: object, stdin: bytes) -> CompletedCommand:
        if script == FACTS:
            return CompletedCommand(b"home /home/me\nuser me\nversion slurm 22.05.8\n", b"", 0)
        if script == NODES_AWAY:
            return CompletedCommand(b"drained\n" if self.has_nodes_away else b"", b"", 0)
        self.questions += 1
        if self.is_too_much:
            return CompletedCommand(b"", TOO_MUCH, 1)
        return CompletedCommand(b"", FULL, 1) if self.is_full else CompletedCommand(b"", b"", 0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ticking(Clock):
    """A tenth of a second passes with every look at it."""

    ticks = 0

    def __call__(self) -> float:
        self.ticks += 1
        return self.now + self.ticks / 10


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir(mode=0o700)
    return tmp_path / "mine" / "admissions"


def request(partition: str = "a") -> JobRequest:
    return merge({"partition": partition})


def test_one_process_asks_for_all(site: Site, clock: Clock, directory: Path) -> None:
    for _ in range(8):
        site.process(directory, clock).check(request())
    assert site.questions == 1
    site.process(directory, clock).check(request("b"))
    assert site.questions == 2


def test_what_was_accepted_long_ago_or_in_another_boot_is_asked_again(
    site: Site, clock: Clock, directory: Path
) -> None:
    site.process(directory, clock).check(request())
    clock.now += 301
    site.process(directory, clock).check(request())
    assert site.questions == 2
    site.process(directory, clock, era="another boot").check(request())
    assert site.questions == 3
    clock.now = 1.0
    site.process(directory, clock, era="another boot").check(request())
    assert site.questions == 4


def test_of_those_who_wait_for_a_place_one_asks(site: Site, clock: Clock, directory: Path) -> None:
    site.is_full = True
    processes = [site.process(directory, clock) for _ in range(8)]
    for process in processes:
        with pytest.raises(SubmitLimitError, match="QOSMaxSubmitJobPerUserLimit"):
            process.check_again(request())
    assert site.questions == 1
    clock.now += FULL_SECONDS
    site.is_full = False
    processes[7].check_again(request())
    # Places are counted: each asks for its own.
    processes[6].check_again(request())
    assert site.questions == 3


def refusal() -> SubmitLimitError:
    return SubmitLimitError("sbatch: Reached jobs per hour limit", returncode=1, stderr=THROTTLED)


def test_where_a_question_is_counted_as_a_submission_nobody_asks(site: Site, clock: Clock, directory: Path) -> None:
    """With a limit of one an hour, nothing was ever submitted: the question took the place."""
    refused, other, third = (site.process(directory, clock) for _ in range(3))
    refused.note_refusal(refusal())
    for process in (refused, other):
        with pytest.raises(SubmitLimitError, match="Reached jobs per hour limit"):
            process.check_again(request())
    clock.now += THROTTLED_SECONDS
    # One submits, and the rest waits for what comes of it.
    other.check_again(request())
    with pytest.raises(SubmitLimitError, match="Reached jobs per hour limit"):
        third.check_again(request())
    other.note_place()
    third.check_again(request())
    third.check_again(request())
    site.process(directory, clock).check(request("b"))
    assert site.questions == 0
    clock.now += 86400
    site.process(directory, clock).check(request("b"))
    assert site.questions == 1


def test_where_nothing_can_be_shared_the_process_knows_what_is_counted(
    site: Site, clock: Clock, directory: Path
) -> None:
    directory.parent.chmod(0o777)
    process = site.process(directory, clock)
    process.note_refusal(refusal())
    with pytest.raises(SubmitLimitError, match="Reached jobs per hour limit"):
        process.check_again(request())
    process.note_place()
    process.check_again(request())
    assert site.questions == 0


def test_a_refusal_for_a_number_of_jobs_is_asked_about_as_before(site: Site, clock: Clock, directory: Path) -> None:
    process = site.process(directory, clock)
    process.note_refusal(SubmitLimitError("sbatch: a limit", returncode=1, stderr=FULL.decode()))
    process.check_again(request())
    assert site.questions == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"era": "this boot", "at": "x", "said": {}}'])
def test_what_is_torn_is_asked_again(site: Site, clock: Clock, directory: Path, text: str) -> None:
    site.process(directory, clock).check(request())
    for file in directory.glob("accepted-*"):
        file.write_text(text)
    (directory / "full").write_text(text)
    site.process(directory, clock).check(request())
    assert site.questions == 2


def test_where_nothing_can_be_shared_each_process_asks_once(site: Site, clock: Clock, directory: Path) -> None:
    directory.parent.chmod(0o777)
    for _ in range(2):
        process = site.process(directory, clock)
        process.check(request())
        process.check(request())
    assert site.questions == 2
    assert not directory.exists()


def test_many_at_once_ask_once(site: Site, clock: Clock, directory: Path) -> None:
    checks = [threading.Thread(target=site.process(directory, clock).check, args=(request(),)) for _ in range(8)]
    for check in checks:
        check.start()
    for check in checks:
        check.join()
    assert site.questions == 1


HOLDER = """
import fcntl, sys
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_EX)
print("holds", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_one_that_is_stopped_or_killed_while_it_asks_holds_up_nobody_for_long(
    site: Site, directory: Path, number: signal.Signals
) -> None:
    directory.mkdir(mode=0o700)
    argv = [sys.executable, "-c", HOLDER, str(directory / "lock")]
    holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        holder.send_signal(number)
        clock = Ticking()
        process = site.process(directory, clock)
        ticks = []
        for partition in "abc":
            began = clock.ticks
            process.check(request(partition))
            ticks.append(clock.ticks - began)
        # It is waited for once, for the second that is its patience, and not again and again.
        assert (ticks[0] >= 10) == (number is signal.SIGSTOP)
        assert max(ticks[0] - 10, *ticks[1:]) < 10
        assert site.questions == 3
    finally:
        holder.kill()
        holder.communicate()
    with (directory / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_may_wait_for_nodes_is_asked_again(site: Site, clock: Clock, tmp_path: Path) -> None:
    """That nothing was refused while nodes were away is no acceptance, for this process and for others."""
    site.is_too_much = site.has_nodes_away = True
    first, second = site.process(tmp_path, clock), site.process(tmp_path, clock)
    first.check(request())
    site.has_nodes_away = False
    for process in (first, second):
        with pytest.raises(SubmissionRejectedError, match="not available"):
            process.check(request())
