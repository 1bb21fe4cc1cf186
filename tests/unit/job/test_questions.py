"""Questions that share files: two in one process stand for two processes, and real ones are stopped and killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dagster_slurm.cluster import shared
from dagster_slurm.cluster.shared import SharedDirectory, seconds_since_boot, this_era
from dagster_slurm.errors import ConnectionFailedError, SlurmCommandError, SlurmUnavailableError
from dagster_slurm.job.questions import Answer, Beside, Question, Rules
from dagster_slurm.slurm.output import QueueEntry, parse_squeue
from dagster_slurm.transport.pool import try_lock

OFTEN = Rules(per_second=1000.0, burst=1000.0, patience_seconds=10.0)


def entry(job_id: str, state: str = "RUNNING") -> QueueEntry:
    return parse_squeue(f"{job_id}|{job_id}|N/A|{state}|2026-01-01T00:00:00|N/A|None||name|/home/me\n")[0]


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Cluster:
    """Answers every question, and keeps it."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []
        self.fault: Exception | None = None

    def __call__(self, ids: list[str]) -> dict[str, QueueEntry]:
        self.questions.append(ids)
        if self.fault is not None:
            raise self.fault
        return {job_id: entry(job_id) for job_id in ids}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    below = tmp_path / "mine"
    below.mkdir(mode=0o700)
    return below / "answers.queue"


Made = Callable[..., Question[QueueEntry]]


@pytest.fixture
def question(directory: Path, clock: Clock) -> Made:
    def made(cluster: Cluster | None = None, rules: Rules = OFTEN, era: str = "this boot") -> Question[QueueEntry]:
        shared_directory = SharedDirectory(directory, clock=clock, era=era)
        return Question(cluster or Cluster(), QueueEntry, shared_directory, clock=clock, rules=rules)

    return made


def alone(ask: Cluster, directory: Path, clock: Clock) -> Question[QueueEntry]:
    return Question(ask, QueueEntry, SharedDirectory(directory, clock=clock), clock=clock)


class TestBeside:
    """One thing is asked at a time, on a thread beside, and its outcome is taken once."""

    @pytest.fixture
    def begun(self) -> list[Callable[[], None]]:
        return []

    @pytest.fixture
    def beside(self, begun: list[Callable[[], None]]) -> Beside:
        return Beside(lambda: None, begun.append)

    def test_an_answer(self, question: Made, beside: Beside, begun: list[Callable[[], None]]) -> None:
        asked, other = question(), question()
        assert beside.is_free
        beside.ask(asked, ["1"])
        assert (beside.is_out(), beside.is_out(asked), beside.is_out(other)) == (True, True, False)
        assert (beside.is_free, beside.has_answer, beside.answer(asked)) == (False, False, None)
        begun.pop()()
        # Before it is taken, nothing else may be asked.
        assert (beside.is_out(), beside.has_answer, beside.is_free) == (False, True, False)
        assert beside.answer(other) is None
        answer = beside.answer(asked)
        assert answer is not None and answer.ids == {"1"}
        assert (beside.answer(asked), beside.has_answer, beside.is_free) == (None, False, True)

    def test_where_another_process_is_asking_there_is_nothing_to_take(
        self, directory: Path, question: Made, beside: Beside, begun: list[Callable[[], None]]
    ) -> None:
        asked = question()
        asked.want(["1"])
        held = SharedDirectory(directory).open("desk")
        try_lock(held)
        beside.ask(asked, ["1"])
        begun.pop()()
        assert (beside.has_answer, beside.is_free, beside.answer(asked)) == (False, True, None)
        os.close(held)

    def test_a_fault_is_raised_once(self, beside: Beside, question: Made, begun: list[Callable[[], None]]) -> None:
        cluster = Cluster()
        cluster.fault = ConnectionFailedError("no route to host")
        asked = question(cluster)
        beside.ask(asked, ["1"])
        begun.pop()()
        assert beside.has_answer
        with pytest.raises(ConnectionFailedError):
            beside.answer(asked)
        assert beside.is_free

    def test_whoever_waits_is_woken(self, question: Made) -> None:
        woken = threading.Event()
        beside = Beside(woken.set)
        beside.ask(question(), ["1"])
        assert woken.wait(60.0)
        assert beside.has_answer


class TestRefusals:
    """What asking again does not mend is found out once, for all processes."""

    def refused(self, asks: Question[QueueEntry]) -> float:
        with pytest.raises(SlurmCommandError):
            asks.ask(["1"])
        return asks.refused_seconds()

    def test_who_comes_later_knows_since_when(self, question: Made, clock: Clock) -> None:
        cluster = Cluster()
        cluster.fault = SlurmCommandError("sacct: not here", returncode=1, stderr="")
        one = question(cluster)
        one.want(["1"])
        assert (one.refused_seconds(), self.refused(one)) == (0.0, 0.0)
        clock.now += 1140.0
        two = question(cluster)
        two.want(["1"])
        assert (two.refused_seconds(), self.refused(two)) == (0.0, 1140.0)

    def test_an_answer_to_any_of_them_ends_it(self, question: Made, clock: Clock) -> None:
        cluster = Cluster()
        cluster.fault = SlurmCommandError("sacct: not here", returncode=1, stderr="")
        one, two, three = (question(cluster) for _ in range(3))
        for each in (one, two, three):
            each.want(["1"])
        self.refused(one)
        clock.now += 60.0
        assert self.refused(two) == 60.0
        cluster.fault = None
        assert two.ask(["1"]) is not None
        assert two.refused_seconds() == 0.0
        assert one.news() is not None
        assert one.refused_seconds() == 0.0
        cluster.fault = SlurmCommandError("sacct: not here", returncode=1, stderr="")
        assert three.news() is not None
        assert self.refused(three) == 0.0

    def test_what_may_be_mended_is_no_refusal(self, question: Made, clock: Clock) -> None:
        cluster = Cluster()
        cluster.fault = SlurmUnavailableError("sacct: down", returncode=1, stderr="")
        one = question(cluster)
        one.want(["1"])
        assert self.refused(one) == 0.0
        clock.now += 60.0
        assert one.refused_seconds() == 0.0


class TestOneAsksForAll:
    def test_the_others_jobs_are_asked_about_as_well(self, question: Made) -> None:
        cluster = Cluster()
        one, two = (question(cluster) for _ in range(2))
        one.want(["1"])
        two.want(["2", "3"])
        answer = one.ask(["1"])
        assert answer is not None
        assert sorted(cluster.questions[0]) == ["1", "2", "3"]
        assert two.news() == answer
        assert two.news() is None
        assert one.news() is None

    def test_who_has_not_looked_yet_is_given_the_news_in_place_of_a_question(
        self, question: Made, clock: Clock
    ) -> None:
        cluster = Cluster()
        one, two = (question(cluster) for _ in range(2))
        one.want(["1"])
        two.want(["2"])
        first = one.ask(["1"])
        assert two.ask(["2"]) == first
        assert len(cluster.questions) == 1
        assert two.ask(["2"]) is not None
        assert len(cluster.questions) == 2

    def test_who_has_left_is_not_asked_about(self, question: Made, clock: Clock) -> None:
        cluster = Cluster()
        one, two = (question(cluster) for _ in range(2))
        one.want(["1"])
        two.want(["2"])
        two.leave()
        one.ask(["1"])
        two.want(["3"])
        one.ask(["1"])
        assert cluster.questions == [["1"], ["1", "3"]]

    def test_thousands_of_others_are_left_to_themselves(self, question: Made, clock: Clock) -> None:
        cluster = Cluster()
        one, two = (question(cluster) for _ in range(2))
        one.want(["1"])
        two.want([str(number) for number in range(10, 10_000)])
        one.ask(["1"])
        assert len(cluster.questions[0]) == 5000
        assert cluster.questions[0][0] == "1"

    def test_together_they_ask_no_faster_than_one(self, question: Made, clock: Clock) -> None:
        cluster, rules = Cluster(), Rules(per_second=1.0, burst=3.0)
        questions = [question(cluster, rules) for _ in range(8)]
        for number, each in enumerate(questions):
            each.want([str(number)])
        for _ in range(100):
            clock.now += 0.1
            for number, each in enumerate(questions):
                each.ask([str(number)])
        assert 10 <= len(cluster.questions) <= 13


class TestFresh:
    @pytest.mark.parametrize(
        ("job_id", "after", "expected"), [("1", 4.0, True), ("1", 5.0, True), ("1", 5.1, False), ("2", 4.0, False)]
    )
    def test_an_answer_is_about_what_was_asked_and_not_about_later(
        self, job_id: str, after: float, expected: bool
    ) -> None:
        assert Answer(5.0, frozenset({"1"}), {}).is_about(job_id, asked_after=after) is expected

    def test_the_time_is_that_of_asking(self, question: Made, clock: Clock) -> None:
        def slowly(ids: list[str]) -> dict[str, QueueEntry]:
            clock.now += 100
            return {}

        one, two = question(slowly), question()
        one.want(["1"])
        one.ask(["1"])
        told = two.news()
        assert told is not None
        assert told.asked_at == 1000.0

    def test_an_answer_that_comes_late_does_not_replace_a_later_one(self, question: Made) -> None:
        one, two, three = question(), question(), question()
        for each in (one, two, three):
            each.want([])
        one._publish(Answer(900.0, frozenset({"1"}), {}))
        two._publish(Answer(800.0, frozenset({"1"}), {}))
        told = three.news()
        assert told is not None
        assert told.asked_at == 900.0

    def test_what_another_boot_has_left_is_none(self, question: Made) -> None:
        rules = Rules(per_second=0.0, burst=1.0)
        before, now = question(rules=rules, era="another boot"), question(rules=rules)
        before.want(["1"])
        before._publish(Answer(900.0, frozenset({"1"}), {"1": entry("1")}))
        assert before.ask(["1"]) is not None
        assert before.ask(["1"]) is None
        now.want(["2"])
        assert now.news() is None
        assert now.age() == float("inf")
        # And what was asked then does not count any more.
        assert now.ask(["2"]) is not None

    def test_an_answer_of_the_future_is_none(self, question: Made, clock: Clock) -> None:
        one, two = question(), question()
        one.want([])
        one._publish(Answer(1000.0, frozenset(), {}))
        clock.now = 10.0
        assert two.news() is None

    @pytest.mark.parametrize("keep", [0, 1, 40, -1])
    def test_a_torn_answer_is_none(self, question: Made, directory: Path, keep: int) -> None:
        one, two = question(), question()
        one.want([])
        one._publish(Answer(900.0, frozenset({"1"}), {"1": entry("1")}))
        whole = (directory / "answer").read_text()
        (directory / "answer").write_text(whole[:keep])
        assert two.news() is None
        one._publish(Answer(901.0, frozenset({"1"}), {"1": entry("1")}))
        told = two.news()
        assert told is not None
        assert told.entries == {"1": entry("1")}

    def test_an_answer_of_another_release_is_none(self, question: Made, directory: Path) -> None:
        one, two = question(), question()
        one.want([])
        one._publish(Answer(900.0, frozenset({"1"}), {"1": entry("1")}))
        told = json.loads((directory / "answer").read_text())
        told["said"]["entries"] = '{"1": {"of": "another release"}}'
        (directory / "answer").write_text(json.dumps(told))
        assert two.news() is None

    @pytest.mark.parametrize(
        "text", ["", "{", "[1, 2", '{"asker": 1}', '{"era": "this boot", "at": 1.0, "said": "x"}', "\0\0\0"]
    )
    def test_a_torn_desk_is_a_new_one(self, question: Made, directory: Path, text: str) -> None:
        one = question()
        one.want([])
        (directory / "desk").write_text(text)
        assert one.ask([]) is not None


class TestNoAnswer:
    def test_that_slurm_does_not_answer_is_known_to_all(self, question: Made, clock: Clock) -> None:
        cluster = Cluster()
        cluster.fault = SlurmUnavailableError("no controller", returncode=1, stderr="no controller")
        one, two = (question(cluster) for _ in range(2))
        one.want(["1"])
        two.want(["2"])
        with pytest.raises(SlurmUnavailableError):
            one.ask(["1"])
        told = two.ask(["2"])
        assert told is not None
        assert (told.failure, told.entries) == ("no controller", None)
        assert len(cluster.questions) == 1

    def test_a_broken_connection_is_ones_own_and_the_turn_is_free_again(self, question: Made, clock: Clock) -> None:
        cluster = Cluster()
        one, two = (question(cluster) for _ in range(2))
        one.want(["1"])
        two.want(["2"])
        cluster.fault = ConnectionFailedError("no route")
        with pytest.raises(ConnectionFailedError):
            one.ask(["1"])
        cluster.fault = None
        assert two.ask(["2"]) is not None


class TestWhereNothingCanBeShared:
    def asks_alone(self, directory: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> Cluster:
        caplog.set_level("DEBUG", logger="dagster_slurm")
        cluster = Cluster()
        question = alone(cluster, directory, clock)
        for _ in range(200):
            clock.now += 0.1
            question.want(["1"])
            question.news()
            question.ask(["1"])
        question.leave()
        assert 20 <= len(cluster.questions) <= 23
        assert [record.levelname for record in caplog.records] == ["DEBUG"]
        return cluster

    def test_a_directory_of_somebody_else(
        self, directory: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        directory.parent.chmod(0o777)
        self.asks_alone(directory, clock, caplog)
        assert not directory.exists()

    def test_a_link_in_its_place(self, directory: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        (directory.parent / "elsewhere").mkdir()
        directory.symlink_to(directory.parent / "elsewhere")
        self.asks_alone(directory, clock, caplog)

    def test_a_file_in_its_place(self, directory: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        directory.write_text("")
        self.asks_alone(directory, clock, caplog)

    def test_no_space_left(self, directory: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        # /dev/full (full(4)) refuses what is written, as a full file system does.
        directory.mkdir(mode=0o700)
        (directory / "desk").symlink_to("/dev/full")
        self.asks_alone(directory, clock, caplog)

    def test_a_directory_that_is_removed_under_way_comes_back(self, directory: Path, clock: Clock) -> None:
        cluster = Cluster()
        one, two = (alone(cluster, directory, clock) for _ in range(2))
        one.want(["1"])
        shutil.rmtree(directory)
        for _ in range(700):
            clock.now += 0.1
            one.want(["1"])
            two.want(["2"])
        told = one.ask(["1"])
        assert told is not None
        assert two.news() == told
        assert told.ids == {"1", "2"}

    def test_a_boot_that_cannot_be_told_from_others(
        self, directory: Path, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shared, "this_era", lambda: "")
        self.asks_alone(directory, clock, caplog)


def test_the_boot_has_a_name_and_a_clock() -> None:
    assert this_era()
    assert abs(float(Path("/proc/uptime").read_text().split()[0]) - seconds_since_boot()) < 1.0


PROGRAM = """
import sys, time
from pathlib import Path
from dagster_slurm.cluster.shared import SharedDirectory, seconds_since_boot
from dagster_slurm.job.questions import Question, Rules
from dagster_slurm.slurm.output import QueueEntry

ahead = Path(sys.argv[3])

def clock():
    return seconds_since_boot() + float(ahead.read_text())

def ask(ids):
    print("asking", flush=True)
    sys.stdin.readline()
    return {}

shared = SharedDirectory(Path(sys.argv[1]), clock=clock)
question = Question(ask, QueueEntry, shared, clock=clock, rules=Rules(100000.0, 100000.0, float(sys.argv[2])))
question.want(["99"])
question.ask(["99"])
print("done", flush=True)
sys.stdin.readline()
"""
PATIENCE_SECONDS = 1000.0


class Ahead:
    """The machine's clock, put forward for all processes that read the same file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.put_forward(0.0)

    def put_forward(self, seconds: float) -> None:
        before = float(self.file.read_text()) if self.file.exists() else 0.0
        self.file.write_text(str(before + seconds))

    def __call__(self) -> float:
        return seconds_since_boot() + float(self.file.read_text())


@pytest.fixture
def ahead(tmp_path: Path) -> Ahead:
    return Ahead(tmp_path / "ahead")


class Other:
    """Another process, which has begun to ask."""

    def __init__(self, directory: Path, ahead: Ahead) -> None:
        argv = [sys.executable, "-c", PROGRAM, str(directory), str(PATIENCE_SECONDS), str(ahead.file)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.expect("asking")

    def expect(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)
        if number is signal.SIGKILL:
            self._process.wait()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Mine:
    """This process's side of the same question."""

    def __init__(self, directory: Path, ahead: Ahead) -> None:
        self.cluster = Cluster()
        self._ahead = ahead
        rules = Rules(100000.0, 100000.0, PATIENCE_SECONDS)
        shared_directory = SharedDirectory(directory, clock=ahead)
        self.question = Question(self.cluster, QueueEntry, shared_directory, clock=ahead, rules=rules)
        self.question.want(["1"])

    def ask(self) -> Answer[QueueEntry] | None:
        """What comes of it; it never takes long, whatever the others do."""
        began = time.monotonic()
        answer = self.question.ask(["1"])
        assert time.monotonic() - began < 10.0
        return answer

    def loses_patience(self) -> bool:
        """Whether it waits for as long as it should, and then no longer."""
        said = [self.ask()]
        self._ahead.put_forward(PATIENCE_SECONDS / 2)
        said.append(self.ask())
        self._ahead.put_forward(PATIENCE_SECONDS / 2)
        return said == [None, None] and self.ask() is not None


@pytest.fixture
def started() -> Iterator[list[Other]]:
    others: list[Other] = []
    yield others
    for other in others:
        other.close()


class TestAnotherProcess:
    def test_it_is_waited_for_and_its_answer_used(self, directory: Path, ahead: Ahead, started: list[Other]) -> None:
        mine = Mine(directory, ahead)
        started.append(Other(directory, ahead))
        assert mine.ask() is None
        started[0].go_on()
        started[0].expect("done")
        answer = mine.ask()
        assert answer is not None
        assert answer.ids == {"1", "99"}
        assert mine.cluster.questions == []

    def test_killed_while_it_asks_it_holds_up_nobody(self, directory: Path, ahead: Ahead, started: list[Other]) -> None:
        mine = Mine(directory, ahead)
        started.append(Other(directory, ahead))
        assert mine.ask() is None
        started[0].send(signal.SIGKILL)
        assert mine.ask() is not None
        # And what it wanted is wanted no more.
        assert mine.cluster.questions == [["1"]]
        assert [file.name for file in directory.glob("*.wants")] == [f"{mine.question._member}.wants"]

    def test_stopped_while_it_asks_it_is_waited_for_once(
        self, directory: Path, ahead: Ahead, started: list[Other]
    ) -> None:
        mine = Mine(directory, ahead)
        started.append(Other(directory, ahead))
        started[0].send(signal.SIGSTOP)
        assert mine.loses_patience()
        assert mine.ask() is not None
        asked_at = max(answer.asked_at for answer in [mine.question.ask(["1"])] if answer)
        # What it says when it goes on is older than what is known, and is not taken for news.
        started[0].go_on()
        started[0].send(signal.SIGCONT)
        started[0].expect("done")
        assert mine.question.news() is None
        told = json.loads((directory / "answer").read_text())
        assert told["at"] == asked_at

    def test_the_others_have_the_answer_of_the_one_that_went_ahead(
        self, directory: Path, ahead: Ahead, started: list[Other]
    ) -> None:
        mine, third = Mine(directory, ahead), Mine(directory, ahead)
        started.append(Other(directory, ahead))
        started[0].send(signal.SIGSTOP)
        assert mine.loses_patience()
        assert third.question.news() is not None
        # And they go on as before: one at a time, and what each of them wants.
        assert third.ask() is not None
        assert set(third.cluster.questions[0]) == {"1", "99"}
