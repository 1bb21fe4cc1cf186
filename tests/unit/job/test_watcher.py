"""The watcher, with time that is injected and a cluster whose shell is played."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from tests.support.scripted import ScriptedTransport

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.judge import Patience
from dagster_slurm.cluster.shared import SharedDirectory, seconds_since_boot
from dagster_slurm.errors import (
    ConnectionFailedError,
    DagsterSlurmError,
    SlurmUnavailableError,
    SubmissionUnknownError,
)
from dagster_slurm.job import events
from dagster_slurm.job.backoff import WatchIntervals
from dagster_slurm.job.events import (
    Broken,
    Ended,
    Event,
    Notice,
    Output,
    QueueLeft,
    Started,
    StateChanged,
    Subscription,
    Waiting,
)
from dagster_slurm.job.questions import Question
from dagster_slurm.job.watcher import JobWatcher
from dagster_slurm.run_directory import JobHandle, LaunchKey
from dagster_slurm.slurm.efficiency import Needs
from dagster_slurm.slurm.output import AccountingRecord
from dagster_slurm.slurm.reasons import parse_reason
from dagster_slurm.slurm.states import JobState
from dagster_slurm.transport import CompletedCommand
from dagster_slurm.transport.shell import verb

POLL = verb("poll", "dagster_slurm.cluster_scripts")
FACTS = verb("facts", "dagster_slurm.cluster_scripts")
SQUEUE_DOWN = b"slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
SACCT_DOWN = b"sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection\n"
SACCT_OFF = b"Slurm accounting storage is disabled\n"
SACCT_MISSING = b"env: 'sacct': No such file or directory\n"
# Only a thread that hangs waits so long, and a machine that does much else needs no less.
REAL_SECONDS = 120.0
MIDNIGHT = datetime(2026, 1, 1, tzinfo=timezone.utc)


class World:
    """A cluster in memory, and its clock: time passes only while the watcher sleeps."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.queue: dict[str, str] = {}
        self.records: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.submitted: dict[str, float] = {}
        self.starts: dict[str, float] = {}
        self.names: dict[str, str] = {}
        self.removed: set[str] = set()
        self.squeue_says = self.sacct_says = b""
        self.unreachable = False
        self.fault: Exception | None = None
        self.asked: Counter[str] = Counter()
        self.questions: list[tuple[str, ...]] = []
        self.fields: list[str] = []
        self.read_names: list[str] = []
        self._plans: list[tuple[float, Callable[[], None]]] = []
        self._now = 0.0
        self._begun = threading.Event()
        self._over = threading.Event()

    # The clock.

    def now(self) -> float:
        return self._now

    def utc(self) -> datetime:
        return MIDNIGHT + timedelta(seconds=self._now)

    def sleep(self, wake: threading.Event, seconds: float) -> None:
        assert self._begun.wait(REAL_SECONDS)
        if self._over.is_set():
            wake.wait(0.01)
        self._now += max(seconds, 0.001)
        while self._plans and self._plans[0][0] <= self._now:
            self._plans.pop(0)[1]()

    def at(self, seconds: float, do: Callable[[], None]) -> None:
        self._plans.append((seconds, do))
        self._plans.sort(key=lambda plan: plan[0])

    def begin(self) -> None:
        self._begun.set()

    def end(self) -> None:
        """Let the watcher's thread rest, whatever it still waits for."""
        self._begun.set()
        self._over.set()

    # The cluster.

    def answer(self, script: str, args: Sequence[str], stdin: bytes) -> CompletedCommand:
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        if self.unreachable:
            self.asked["unreachable"] += 1
            raise ConnectionFailedError("The connection failed: no route to host", host="login")
        if script == POLL:
            return self._poll(int(args[1]), args[3:])
        if script == FACTS:
            return CompletedCommand(b"home /home/me\nuser me\nversion slurm 22.05.8\n", b"", 0)
        program = next(word for word in args if word in ("squeue", "sacct"))
        ids = next(word for word in args if word.startswith("--jobs=")).removeprefix("--jobs=").split(",")
        self.asked[program] += 1
        self.questions.append((program, *ids))
        if program == "squeue":
            return self._squeue(ids)
        self.fields = next(word for word in args if word.startswith("--format=")).removeprefix("--format=").split(",")
        return self._sacct(ids)

    def _poll(self, max_bytes: int, words: Sequence[str]) -> CompletedCommand:
        self.asked["poll"] += 1
        self.read_names = list(words[1::2])
        blocks = b""
        for offset, name in zip(map(int, words[::2]), words[1::2], strict=True):
            data = self.files.get(name, b"")[offset : offset + max_bytes]
            data = b"" if name in self.removed else data
            blocks += (
                b"%s %d %d\n%s" % (name.encode(), offset, len(data), data) if data or name in self.removed else b""
            )
        return CompletedCommand(blocks, b"", 0)

    def _squeue(self, ids: Sequence[str]) -> CompletedCommand:
        if self.squeue_says:
            return CompletedCommand(b"", self.squeue_says, 1)
        known = [job_id for job_id in ids if job_id in self.queue]
        if len(ids) == 1 and not known:
            return CompletedCommand(b"", b"slurm_load_jobs error: Invalid job id specified\n", 1)
        lines = [
            f"{job_id}|{job_id}|N/A|{self.queue[job_id]}|{self._told_of(job_id)}|n1|{self._name(job_id)}|/home/me\n"
            for job_id in known
        ]
        return CompletedCommand("".join(lines).encode(), b"", 0)

    def _name(self, job_id: str) -> str:
        return self.names.get(job_id, handle(int(job_id)).directory.job_name())

    def _told_of(self, job_id: str) -> str:
        times = [_time(times[job_id]) if job_id in times else "N/A" for times in (self.submitted, self.starts)]
        return "|".join([*times, self.reasons.get(job_id, "None")])

    def _sacct(self, ids: Sequence[str]) -> CompletedCommand:
        if self.sacct_says:
            return CompletedCommand(b"", self.sacct_says, 127 if self.sacct_says == SACCT_MISSING else 1)
        lines = []
        for job_id in ids:
            if job_id in self.records:
                values = {
                    "JobID": job_id,
                    "State": self.records[job_id],
                    "ExitCode": "0:0",
                    "JobName": self._name(job_id),
                }
                times = {"Submit": self.submitted, "Start": self.starts}
                values |= {name: _time(known[job_id]) for name, known in times.items() if job_id in known}
                lines.append("|".join(values.get(name, "") for name in self.fields) + "\n")
        return CompletedCommand("".join(lines).encode(), b"", 0)

    # What jobs do.

    def write(self, handle: JobHandle, name: str, data: bytes) -> None:
        path = handle.directory.log_name(name)
        self.files[path] = self.files.get(path, b"") + data

    def wait(self, handle: JobHandle, reason: str, expected: float | None = None) -> None:
        """It waits from now on, for that reason, and is expected to start at that time."""
        self.queue[handle.job_id], self.reasons[handle.job_id] = "PENDING", reason
        self.submitted.setdefault(handle.job_id, self._now)
        self.starts.pop(handle.job_id, None)
        if expected is not None:
            self.starts[handle.job_id] = expected

    def start(self, handle: JobHandle, restart: int = 0) -> None:
        self.queue[handle.job_id] = "RUNNING"
        self.reasons.pop(handle.job_id, None)
        if handle.job_id in self.submitted:
            self.starts[handle.job_id] = self._now
        self.write(handle, "status", f"start {handle.job_id} {restart} 1.0 n1\n".encode())

    def write_end(self, handle: JobHandle, code: int = 0, restart: int = 0, figures: str = "") -> None:
        """Its end line; without figures, that of an older release."""
        sizes = [len(self.files.get(handle.directory.log_name(f"{s}.{restart}"), b"")) for s in ("stdout", "stderr")]
        line = " ".join(f"end {handle.job_id} {restart} {code} 2.0 {sizes[0]} {sizes[1]} 0 {figures}".split())
        self.write(handle, "status", f"{line}\n".encode())

    def remove(self, handle: JobHandle) -> None:
        """Somebody removes its run directory."""
        self.removed.add(handle.directory.log_name("status"))

    def leave_queue(self, handle: JobHandle) -> None:
        self.queue.pop(handle.job_id, None)

    def finish(self, handle: JobHandle, state: str = "COMPLETED", code: int = 0) -> None:
        """A good end: the end line is written, and everybody knows."""
        self.write_end(handle, code)
        self.leave_queue(handle)
        self.records[handle.job_id] = state


def _time(seconds: float) -> str:
    return f"{MIDNIGHT + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}"


def handle(number: int) -> JobHandle:
    key = LaunchKey("run", f"step{number}")
    return JobHandle(key.first_attempt("/base"), str(number))


JOB = handle(1)
NAMELESS = Waiting(parse_reason(None), None)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.end()


@pytest.fixture
def watcher(world: World) -> JobWatcher:
    cluster = SlurmCluster(ScriptedTransport(world.answer, host="login"), remote_base="/base")
    return JobWatcher(cluster, intervals=WatchIntervals(), patience=Patience(), clock=world, start=lambda ask: ask())


class WaitingTransport(ScriptedTransport):
    """The same, with a channel on which a look waits for news, in the world's own time."""

    def __init__(self, world: World) -> None:
        super().__init__(world.answer, host="login")
        self._world = world
        self.waits: list[tuple[float, float]] = []

    def run_aside(self, script: str, args: Sequence[str] = (), *, timeout_seconds: float = 0.0) -> CompletedCommand:
        began, seconds = self._world.now(), float(args[2])
        self.waits.append((began, seconds))
        answer = self.run(script, args)
        while not answer.stdout and self._world.now() < began + seconds:
            self._world.sleep(threading.Event(), 0.02)
            answer = self.run(script, args)
        return answer


def until_end(subscription: Subscription) -> list[Event]:
    """Every event, up to and with the last one."""
    seen: list[Event] = []
    while not (seen and isinstance(seen[-1], (Ended, Broken))):
        event = subscription.get(REAL_SECONDS)
        assert event is not None, f"no end; so far {seen}"
        seen.append(event)
    return seen


def watch_to_end(world: World, watcher: JobWatcher, job: JobHandle = JOB) -> list[Event]:
    subscription = watcher.watch(job)
    world.begin()
    return until_end(subscription)


def state_of(seen: Sequence[Event]) -> JobState:
    assert isinstance(seen[-1], Ended), seen[-1]
    return seen[-1].state


def notices(seen: Sequence[Event]) -> list[str]:
    return [event.text for event in seen if isinstance(event, Notice)]


class TestWhoseRecordItIs:
    """Numbers come again; a record of another's job is no witness of ours."""

    def test_a_stranger_s_success_is_not_ours(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(10, lambda: world.write_end(JOB, 7))
        world.at(10, lambda: world.leave_queue(JOB))
        world.names["1"], world.records["1"] = "stranger", "COMPLETED"
        seen = watch_to_end(world, watcher)
        assert state_of(seen) is JobState.FAILED
        assert any("'stranger'" in text and "sacct" in text for text in notices(seen))

    def test_while_a_stranger_s_job_is_in_the_queue_ours_is_not_taken_for_gone(
        self, world: World, watcher: JobWatcher
    ) -> None:
        world.start(JOB)
        world.names["1"] = "changed by the site"
        world.at(7200, lambda: world.finish(JOB))
        seen = watch_to_end(world, watcher)
        assert state_of(seen) is JobState.COMPLETED
        assert world.now() >= 7200
        assert sum("is not taken for" in text for text in notices(seen)) <= 2

    def test_a_record_without_a_name_is_ours_if_it_started_when_ours_did(
        self, world: World, watcher: JobWatcher
    ) -> None:
        world.start(JOB)
        began = world.files[JOB.directory.log_name("status")].split()[3]
        world.at(10, lambda: world.leave_queue(JOB))
        world.at(10, lambda: world.names.update({"1": "allocation"}))
        world.starts["1"] = float(began) - MIDNIGHT.timestamp() + 3600
        world.records["1"] = "OUT_OF_MEMORY"
        assert state_of(watch_to_end(world, watcher)) is JobState.OUT_OF_MEMORY
        assert world.now() < 60


class TestCompletedWithoutAnEndLine:
    """An administrator has cleared a runaway job: `COMPLETED 0:0`."""

    def test_it_is_no_success(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(10, lambda: world.leave_queue(JOB))
        world.records["1"] = "COMPLETED"
        seen = watch_to_end(world, watcher)
        assert isinstance(seen[-1], Ended)
        assert not seen[-1].is_success
        assert world.now() >= 130
        assert any("end line of its batch script is not seen" in text for text in notices(seen))

    def test_a_line_that_is_seen_late_is_one(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(10, lambda: world.leave_queue(JOB))
        world.at(70, lambda: world.write_end(JOB))
        world.records["1"] = "COMPLETED"
        seen = watch_to_end(world, watcher)
        assert isinstance(seen[-1], Ended)
        assert seen[-1].is_success
        assert world.now() < 80

    def test_it_is_called_a_runaway_job_while_it_is_one(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(10, lambda: world.leave_queue(JOB))
        world.records["1"] = "RUNNING"
        world.at(600, lambda: world.records.update({"1": "COMPLETED"}))
        seen = watch_to_end(world, watcher)
        assert sum("sacctmgr show runawayjobs" in text for text in notices(seen)) == 1
        assert isinstance(seen[-1], Ended)
        assert not seen[-1].is_success


class TestAccountingIsRefused:
    """By a wrapper of the site, for good."""

    def test_its_end_line_decides(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.sacct_says = b"sacct: error: not on this login node\n"
        world.at(10, lambda: world.write_end(JOB, 3))
        world.at(10, lambda: world.leave_queue(JOB))
        seen = watch_to_end(world, watcher)
        assert state_of(seen) is JobState.FAILED
        assert 30 <= world.now() < 60
        assert any("has no usable answer" in text for text in notices(seen))

    def test_what_is_refused_for_good_is_waited_for_once(self, world: World, watcher: JobWatcher) -> None:
        """Every followed run ended 20 s late (snakemake-executor-plugin-slurm#207), and only the first said why."""
        jobs = [handle(number) for number in range(1, 4)]
        world.sacct_says = b"sacct: error: not on this login node\n"
        late = []
        world.begin()
        for job in jobs:
            subscription, begun = watcher.watch(job), world.now()
            world.at(begun + 50, lambda job=job: world.write_end(job))  # type: ignore[misc]
            world.at(begun + 50, lambda job=job: world.leave_queue(job))  # type: ignore[misc]
            world.start(job)
            seen = until_end(subscription)
            assert state_of(seen) is JobState.COMPLETED
            assert sum("refuses every question" in text for text in notices(seen)) == 1
            late.append(world.now() - begun - 50)
        assert 20 <= late[0] < 30
        assert max(late[1:]) < 5

    def test_it_is_believed_again_when_it_answers(self, world: World, watcher: JobWatcher) -> None:
        first, second = handle(1), handle(2)
        world.sacct_says = b"sacct: error: not on this login node\n"
        world.start(first)
        world.at(10, lambda: world.write_end(first))
        world.at(10, lambda: world.leave_queue(first))
        watch_to_end(world, watcher, first)
        world.sacct_says = b""
        world.start(second)
        world.at(world.now() + 100, lambda: world.finish(second, "OUT_OF_MEMORY", 1))
        assert state_of(watch_to_end(world, watcher, second)) is JobState.OUT_OF_MEMORY

    def test_without_one_it_has_failed(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.sacct_says = b"sacct: error: not on this login node\n"
        world.at(10, lambda: world.leave_queue(JOB))
        assert state_of(watch_to_end(world, watcher)) is JobState.FAILED
        assert 130 <= world.now() < 200


def test_what_another_process_was_not_told_long_ago_is_no_news(world: World, tmp_path: Path) -> None:
    """An answer that another process has not had 19 minutes before was told as an outage of now."""

    def down(ids: list[str]) -> dict[str, AccountingRecord]:
        raise SlurmUnavailableError("sacct: down", returncode=1, stderr="down", host="login")

    (tmp_path / "mine").mkdir(mode=0o700)
    shared = tmp_path / "mine" / "answers"
    other = Question(
        down, AccountingRecord, SharedDirectory(shared.with_name("answers.accounting")), clock=seconds_since_boot
    )
    other.want(["7"])
    with pytest.raises(SlurmUnavailableError):
        other.ask(["7"])
    cluster = SlurmCluster(ScriptedTransport(world.answer, host="login"), remote_base="/base")
    watcher = JobWatcher(cluster, clock=world, shared=shared, start=lambda ask: ask())
    world.start(JOB)
    world.at(10, lambda: world.finish(JOB))
    seen = watch_to_end(world, watcher)
    assert state_of(seen) is JobState.COMPLETED
    assert notices(seen) == []
    other.leave()


class TestItsDirectoryIsRemoved:
    """By hand, or by a site's clean-up."""

    def test_while_it_runs(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(10, lambda: world.remove(JOB))
        world.at(100, lambda: world.leave_queue(JOB))
        world.records["1"] = "COMPLETED"
        seen = watch_to_end(world, watcher)
        (told,) = [text for text in notices(seen) if "run directory" in text]
        assert told.endswith("is not there any more; what it says from now on is lost, and so is its result")
        assert isinstance(seen[-1], Ended)
        assert (seen[-1].is_removed, seen[-1].is_success) == (True, False)

    def test_while_it_waits(self, world: World, watcher: JobWatcher) -> None:
        world.wait(JOB, "JobHeldUser")
        world.at(10, lambda: world.remove(JOB))
        world.at(100, lambda: world.leave_queue(JOB))
        world.records["1"] = "FAILED"
        seen = watch_to_end(world, watcher)
        assert [text.partition("; ")[2] for text in notices(seen)] == ["it cannot start without"]
        assert isinstance(seen[-1], Ended)
        assert (seen[-1].state, seen[-1].is_removed) == (JobState.FAILED, True)

    def test_for_a_moment(self, world: World, watcher: JobWatcher) -> None:
        """As on a file system that is looked at again."""
        world.start(JOB)
        world.at(10, lambda: world.remove(JOB))
        world.at(15, world.removed.clear)
        world.at(100, lambda: world.finish(JOB))
        seen = watch_to_end(world, watcher)
        assert state_of(seen) is JobState.COMPLETED
        assert notices(seen) == []

    def test_its_logs_alone(self, world: World, watcher: JobWatcher) -> None:
        """As `find -mtime` does it. The batch script writes its end line to a new file: a success, with lines lost."""
        world.start(JOB)
        world.write(JOB, "stdout.0", b"seen")
        world.at(10, lambda: world.remove(JOB))
        line = b"end 1 0 0 2.0 10 0 5\n"
        world.at(20, lambda: world.files.update({JOB.directory.log_name("status"): line}))
        world.at(20, world.removed.clear)
        world.at(20, lambda: world.leave_queue(JOB))
        world.records["1"] = "COMPLETED"
        seen = watch_to_end(world, watcher)
        assert isinstance(seen[-1], Ended)
        assert (seen[-1].is_success, seen[-1].unread_bytes) == (True, {"stdout": 6, "messages": 5})


class TestALife:
    """A job from its start to its end."""

    def test_output_is_told_in_order_and_before_the_end(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(1, lambda: world.write(JOB, "stdout.0", b"a"))
        world.at(2, lambda: world.write(JOB, "stderr.0", b"e"))
        world.at(3, lambda: world.write(JOB, "stdout.0", b"b"))
        world.at(4, lambda: world.finish(JOB))
        seen = watch_to_end(world, watcher)
        assert seen[:-1] == [Started("n1", 0), Output("stdout", b"a"), Output("stderr", b"e"), Output("stdout", b"b")]
        assert isinstance(seen[-1], Ended)
        assert (seen[-1].state, seen[-1].nodes) == (JobState.COMPLETED, "n1")
        assert seen[-1].record is not None
        assert seen[-1].end_mark is not None

    def test_the_end_is_told_soon_after_the_end_line(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(100, lambda: world.finish(JOB))
        watch_to_end(world, watcher)
        assert 100 <= world.now() < 102

    def test_an_end_without_an_end_line_is_found_by_asking(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(100, lambda: world.leave_queue(JOB))
        world.records["1"] = "OUT_OF_MEMORY"
        seen = watch_to_end(world, watcher)
        assert state_of(seen) is JobState.OUT_OF_MEMORY
        assert 100 <= world.now() < 140

    def test_an_end_line_alone_ends_nothing_while_the_job_is_queued(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(10, lambda: world.write_end(JOB))
        world.at(10, lambda: world.queue.update({"1": "COMPLETING"}))
        world.at(300, lambda: world.finish(JOB, "FAILED"))
        assert state_of(watch_to_end(world, watcher)) is JobState.FAILED
        assert world.now() >= 300
        # It asks soon at first, and then with growing pauses.
        assert world.asked["squeue"] < 40

    def test_output_longer_than_a_block_is_told_as_a_whole(self, world: World, watcher: JobWatcher) -> None:
        data = bytes(range(256)) * 20_000
        world.start(JOB)
        world.write(JOB, "stdout.0", data)
        world.finish(JOB)
        seen = watch_to_end(world, watcher)
        assert b"".join(event.data for event in seen if isinstance(event, Output)) == data

    def test_a_requeued_job_is_told_again_from_its_new_files(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.write(JOB, "stdout.0", b"first")
        world.at(10, lambda: world.write_end(JOB, 143))
        world.at(10, lambda: world.queue.update({"1": "PENDING"}))
        world.at(140, lambda: world.start(JOB, restart=1))
        world.at(141, lambda: world.write(JOB, "stdout.1", b"second"))
        world.at(150, lambda: world.write_end(JOB, 0, restart=1))
        world.at(150, lambda: world.leave_queue(JOB))
        world.at(150, lambda: world.records.update({"1": "COMPLETED"}))
        seen = watch_to_end(world, watcher)
        assert seen[:-1] == [
            Output("stdout", b"first"),
            Started("n1", 0),
            StateChanged(JobState.REQUEUED),
            NAMELESS,
            Started("n1", 1),
            Output("stdout", b"second"),
        ]
        assert state_of(seen) is JobState.COMPLETED


GOOD = f"started={MIDNIGHT.timestamp() + 100} submitted={MIDNIGHT.timestamp() + 60} nodes=1 cpus=1 killed=0"


class TestAGoodEndLine:
    """It ends the job, and nobody is asked."""

    def test_it_ends_the_job(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.write(JOB, "stdout.0", b"out")
        world.at(0.5, lambda: world.write_end(JOB, figures=GOOD))
        seen = watch_to_end(world, watcher)
        assert state_of(seen) is JobState.COMPLETED
        assert isinstance(seen[-1], Ended)
        assert (seen[-1].record, seen[-1].was_accounting_asked) == (None, False)
        assert Output("stdout", b"out") in seen
        assert world.now() < 1.2
        # When it has started is asked at once.
        assert (world.asked["squeue"], world.asked["sacct"]) == (1, 0)

    def test_not_before_all_of_it_was_read(self, world: World, watcher: JobWatcher) -> None:
        data = bytes(range(256)) * 200_000
        world.start(JOB)
        world.write(JOB, "stdout.0", data)
        world.write_end(JOB, figures=GOOD)
        seen = watch_to_end(world, watcher)
        assert b"".join(event.data for event in seen if isinstance(event, Output)) == data
        assert world.asked["sacct"] == 0

    def test_what_is_cut_off_is_waited_for_and_then_asked_about(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.write(JOB, "stdout.0", b"long")
        world.at(5, lambda: world.write(JOB, "status", f"end 1 0 0 2.0 6 0 0 {GOOD}\n".encode()))
        world.at(5, lambda: world.leave_queue(JOB))
        world.records["1"] = "COMPLETED"
        seen = watch_to_end(world, watcher)
        assert isinstance(seen[-1], Ended)
        assert (seen[-1].is_success, seen[-1].unread_bytes) == (True, {"stdout": 2})
        assert world.now() >= 15

    def test_when_it_has_started_is_told_by_it(self, world: World, watcher: JobWatcher) -> None:
        world.wait(JOB, "Resources")
        world.at(4, lambda: world.start(JOB))
        world.at(5, lambda: world.write_end(JOB, figures=GOOD))
        seen = watch_to_end(world, watcher)
        assert queue_news(seen) == [("Resources", None), ("started", 0), ("left", 40)]

    def test_a_stranger_under_its_number_is_of_no_matter(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.names["1"], world.records["1"] = "stranger", "FAILED"
        world.at(10, lambda: world.write_end(JOB, figures=GOOD))
        assert state_of(watch_to_end(world, watcher)) is JobState.COMPLETED
        assert world.now() < 12

    def test_that_of_a_stranger_is_none(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(5, lambda: world.write(JOB, "status", f"end 2 0 0 2.0 0 0 0 {GOOD}\n".encode()))
        world.at(10, lambda: world.write_end(JOB, 7))
        world.at(10, lambda: world.leave_queue(JOB))
        world.records["1"] = "FAILED"
        assert state_of(watch_to_end(world, watcher)) is JobState.FAILED

    def test_a_bad_end_that_slurm_tells_is_one(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(1, lambda: world.queue.update({"1": "TIMEOUT"}))
        world.at(10, lambda: world.write_end(JOB, figures=GOOD))
        world.at(10, lambda: world.records.update({"1": "TIMEOUT"}))
        assert state_of(watch_to_end(world, watcher)) is JobState.TIMEOUT

    @pytest.mark.parametrize("figures", [GOOD.replace("killed=0", "killed=1"), GOOD.replace(" killed=0", "")])
    def test_a_child_that_was_killed_for_want_of_memory_is_seen(
        self, world: World, watcher: JobWatcher, figures: str
    ) -> None:
        world.start(JOB)
        world.at(10, lambda: world.write_end(JOB, figures=figures))
        world.at(10, lambda: world.leave_queue(JOB))
        world.at(12, lambda: world.records.update({"1": "OUT_OF_MEMORY"}))
        assert state_of(watch_to_end(world, watcher)) is JobState.OUT_OF_MEMORY

    def test_a_job_that_was_told_to_end_may_begin_again(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(10, lambda: world.write_end(JOB, figures=f"told=TERM {GOOD}"))
        world.at(10, lambda: world.queue.update({"1": "PENDING"}))
        world.at(140, lambda: world.start(JOB, restart=1))
        world.at(150, lambda: world.write_end(JOB, 3, restart=1, figures=GOOD))
        world.at(150, lambda: world.leave_queue(JOB))
        world.at(150, lambda: world.records.update({"1": "FAILED"}))
        assert state_of(watch_to_end(world, watcher)) is JobState.FAILED

    def test_of_an_incarnation_that_began_twice_slurm_is_asked(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.start(JOB)
        world.at(10, lambda: world.write_end(JOB, figures=GOOD))
        world.at(50, lambda: world.finish(JOB, "FAILED", 1))
        assert state_of(watch_to_end(world, watcher)) is JobState.FAILED

    def test_two_nodes_of_which_no_launcher_tells_are_asked_about(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(10, lambda: world.write_end(JOB, figures=GOOD.replace("nodes=1", "nodes=2")))
        world.at(10, lambda: world.leave_queue(JOB))
        world.at(11, lambda: world.records.update({"1": "NODE_FAIL"}))
        assert state_of(watch_to_end(world, watcher)) is JobState.NODE_FAIL

    @pytest.mark.parametrize(
        ("needs", "figures", "is_asked"),
        [
            (Needs(everything=True), GOOD, True),
            (Needs(figures=frozenset({"max_memory_mb"})), GOOD, True),
            (Needs(figures=frozenset({"max_memory_mb"})), f"{GOOD} memory=5", False),
            (Needs(figures=frozenset({"gpu_utilization_pct"})), GOOD, True),
            (Needs(figures=frozenset({"slurm_accounting_available"})), GOOD, True),
            (Needs(figures=frozenset({"slurm_job_id", "slurm_requested_gpus", "node_hours"})), GOOD, False),
            (Needs(), f"{GOOD} gpus=1", True),
            (Needs(), f"{GOOD} gpus=0", False),
        ],
    )
    def test_who_wants_what_only_sacct_knows_waits_for_it(
        self, world: World, watcher: JobWatcher, needs: Needs, figures: str, is_asked: bool
    ) -> None:
        world.start(JOB)
        world.at(10, lambda: world.write_end(JOB, figures=figures))
        world.at(10, lambda: world.leave_queue(JOB))
        world.at(15, lambda: world.records.update({"1": "COMPLETED"}))
        subscription = Subscription()
        watcher.watch_all([(JOB, subscription)], needs)
        world.begin()
        end = until_end(subscription)[-1]
        assert isinstance(end, Ended)
        assert (end.is_success, end.record is not None, end.was_accounting_asked) == (True, is_asked, is_asked)
        assert (world.now() >= 15, world.asked["sacct"] > 0) == (is_asked, is_asked)

    @pytest.mark.parametrize(
        ("needs", "tres"),
        [
            (Needs(), False),
            (Needs(figures=frozenset({"slurm_accounting_available"})), False),
            (Needs(figures=frozenset({"max_gpu_memory_mb"})), True),
            (Needs(everything=True), True),
        ],
    )
    def test_trackable_resources_are_asked_for_where_they_are_wanted(
        self, world: World, watcher: JobWatcher, needs: Needs, tres: bool
    ) -> None:
        world.start(JOB)
        world.at(10, lambda: world.finish(JOB, "FAILED", 3))
        subscription = Subscription()
        watcher.watch_all([(JOB, subscription)], needs)
        world.begin()
        assert state_of(until_end(subscription)) is JobState.FAILED
        assert ("AllocTRES" in world.fields, "TRESUsageInMax" in world.fields) == (tres, tres)
        assert world.asked["sacct"] >= 1

    @pytest.mark.parametrize("says", [b"", SACCT_DOWN])
    def test_but_not_for_ever(self, world: World, watcher: JobWatcher, says: bytes) -> None:
        world.start(JOB)
        world.sacct_says = says
        world.at(10, lambda: world.write_end(JOB, figures=GOOD))
        subscription = Subscription()
        watcher.watch_all([(JOB, subscription)], Needs(everything=True))
        world.begin()
        end = until_end(subscription)[-1]
        assert isinstance(end, Ended)
        assert (end.is_success, end.record, end.was_accounting_asked) == (True, None, True)
        assert 30 <= world.now() < 40


def queue_news(seen: Sequence[Event]) -> list[tuple[object, ...]]:
    """What was told of waiting, starts and other changes, in short."""
    short: list[tuple[object, ...]] = []
    for event in seen:
        if isinstance(event, Waiting):
            at = event.expected_start
            short.append((event.reason.code, None if at is None else (at - MIDNIGHT).total_seconds()))
        elif isinstance(event, QueueLeft):
            short.append(("left", event.waited_seconds))
        elif isinstance(event, StateChanged):
            short.append((event.state, event.before))
        elif isinstance(event, Started):
            short.append(("started", event.restart))
    return short


class TestWaiting:
    """Why a job waits is told soon, and again when it changes; then when Slurm started it."""

    def test_a_job_that_waits_and_starts(self, world: World, watcher: JobWatcher) -> None:
        world.wait(JOB, "Priority", expected=600)
        world.at(100, lambda: world.wait(JOB, "Resources", expected=600))
        world.at(300, lambda: world.start(JOB))
        world.at(400, lambda: world.finish(JOB))
        seen = watch_to_end(world, watcher)
        told = [("Priority", 600), ("Resources", 600), ("started", 0), ("left", 300)]
        assert queue_news(seen) == told
        assert state_of(seen) is JobState.COMPLETED

    def test_the_first_reason_comes_within_two_seconds(self, world: World, watcher: JobWatcher) -> None:
        world.wait(JOB, "PartitionDown")
        asked: list[int] = []
        world.at(2, lambda: asked.append(world.asked["squeue"]))
        world.at(3, lambda: world.finish(JOB, "CANCELLED"))
        seen = watch_to_end(world, watcher)
        assert asked == [1]
        assert queue_news(seen) == [("PartitionDown", None)]

    def test_a_start_is_told_within_seconds_by_a_question_that_was_due_later(
        self, world: World, watcher: JobWatcher
    ) -> None:
        world.wait(JOB, "Resources")
        asked: list[int] = []
        world.at(3600, lambda: asked.append(world.asked["squeue"]))
        world.at(3600, lambda: world.start(JOB))
        world.at(3607, lambda: asked.append(world.asked["squeue"]))
        world.at(7200, lambda: world.finish(JOB))
        seen = watch_to_end(world, watcher)
        assert queue_news(seen) == [("Resources", None), ("started", 0), ("left", 3600)]
        assert 0 <= asked[1] - asked[0] <= 1
        # Two hours at pauses of 30 s less a tenth.
        assert world.asked["squeue"] < 7200 / 27 + 12

    def test_a_short_job_costs_a_question_and_tells_its_wait(self, world: World, watcher: JobWatcher) -> None:
        world.wait(JOB, "None")
        world.at(1, lambda: world.start(JOB))
        world.at(8, lambda: world.finish(JOB))
        seen = watch_to_end(world, watcher)
        assert [each for each in queue_news(seen) if each[0] == "left"] == [("left", 1)]
        assert world.asked["squeue"] <= 4

    def test_a_start_that_was_not_asked_about_is_told_at_the_end(self, world: World, watcher: JobWatcher) -> None:
        world.wait(JOB, "Resources")
        world.at(4, lambda: world.start(JOB))
        world.at(5, lambda: world.finish(JOB))
        seen = watch_to_end(world, watcher)
        assert queue_news(seen) == [("Resources", None), ("started", 0), ("left", 4)]

    def test_jobs_that_come_one_after_the_other_are_not_asked_about_one_by_one(
        self, world: World, watcher: JobWatcher
    ) -> None:
        jobs = [handle(number) for number in range(1, 61)]
        subscriptions: list[Subscription] = []
        for second, job in enumerate(jobs):
            world.wait(job, "Priority")
            world.at(second, lambda job=job: subscriptions.append(watcher.watch(job)))  # type: ignore[misc]
        world.at(61, lambda: [world.finish(job) for job in jobs])  # type: ignore[func-returns-value]
        subscriptions.append(watcher.watch(handle(99)))
        world.wait(handle(99), "Priority")
        counts: list[int] = []
        world.at(60, lambda: counts.append(world.asked["squeue"]))
        world.at(61, lambda: world.finish(handle(99)))
        world.begin()
        assert {state_of(until_end(subscriptions[0]))} == {JobState.COMPLETED}
        for each in subscriptions[1:]:
            assert queue_news(until_end(each)) in ([("Priority", None)], [])
        assert counts[0] <= 60 / WatchIntervals().status_seconds + 2

    def test_a_squeue_that_is_behind_makes_no_requeue_of_a_start(self, world: World, watcher: JobWatcher) -> None:
        world.wait(JOB, "Priority")
        world.at(100, lambda: world.start(JOB))
        world.at(100, lambda: world.wait(JOB, "Priority"))
        world.at(160, lambda: world.starts.update({"1": 100}))
        world.at(160, lambda: world.queue.update({"1": "RUNNING"}))
        world.at(300, lambda: world.finish(JOB))
        assert queue_news(watch_to_end(world, watcher)) == [("Priority", None), ("started", 0), ("left", 100)]

    def test_what_happens_to_a_job_is_told_once_for_each_change(self, world: World, watcher: JobWatcher) -> None:
        world.wait(JOB, "JobHeldUser")
        world.at(60, lambda: world.wait(JOB, "Resources"))
        world.at(120, lambda: world.wait(JOB, "JobHeldUser"))
        world.at(180, lambda: world.wait(JOB, "Resources"))
        world.at(240, lambda: world.start(JOB))
        world.at(300, lambda: world.queue.update({"1": "SUSPENDED"}))
        world.at(400, lambda: world.queue.update({"1": "RUNNING"}))
        world.at(500, lambda: world.queue.update({"1": "COMPLETING"}))
        world.at(560, lambda: world.wait(JOB, "BeginTime", expected=700))
        world.at(700, lambda: world.start(JOB, restart=1))
        world.at(800, lambda: world.write_end(JOB, restart=1))
        world.at(800, lambda: world.leave_queue(JOB))
        world.at(800, lambda: world.records.update({"1": "COMPLETED"}))
        assert queue_news(watch_to_end(world, watcher)) == [
            ("JobHeldUser", None),
            ("Resources", None),
            ("JobHeldUser", None),
            ("Resources", None),
            ("started", 0),
            ("left", 240),
            (JobState.SUSPENDED, None),
            (JobState.RUNNING, JobState.SUSPENDED),
            (JobState.REQUEUED, None),
            ("BeginTime", 700),
            ("started", 1),
            ("left", 700),
        ]


class TestWhatItCosts:
    """Few questions, and one for all jobs."""

    def test_one_read_for_all_jobs(self, world: World, watcher: JobWatcher) -> None:
        jobs = [handle(number) for number in range(1, 21)]
        for job in jobs:
            world.start(job)
        subscriptions = [watcher.watch(job) for job in jobs]
        polls: list[tuple[float, int]] = []
        world.at(50, lambda: polls.append((world.now(), world.asked["poll"])))
        world.at(100, lambda: polls.append((world.now(), world.asked["poll"])))
        world.at(101, lambda: [world.finish(job) for job in jobs])  # type: ignore[func-returns-value]
        world.begin()
        assert {state_of(until_end(each)) for each in subscriptions} == {JobState.COMPLETED}
        (first, before), (last, after) = polls
        # While nothing is new, two reads a second.
        assert 0.9 <= (after - before) / ((last - first) / WatchIntervals().tick_max_seconds) <= 1.1

    def test_squeue_is_asked_seldom_and_once_for_all(self, world: World, watcher: JobWatcher) -> None:
        jobs = [handle(number) for number in range(1, 21)]
        for job in jobs:
            world.start(job)
        subscriptions = [watcher.watch(job) for job in jobs]
        counts: list[Counter[str]] = []
        world.at(1800, lambda: counts.append(world.asked.copy()))
        world.at(1801, lambda: [world.finish(job) for job in jobs])  # type: ignore[func-returns-value]
        world.begin()
        for each in subscriptions:
            until_end(each)
        # Pauses of 5 s that grow to 30 s.
        assert 1800 / 33 < counts[0]["squeue"] < 1800 / 30 / 0.9 + 10
        assert counts[0]["sacct"] == 0
        squeues = [question for question in world.questions if question[0] == "squeue"]
        assert sum(len(question) == 21 for question in squeues) >= counts[0]["squeue"] - 1
        # The ends of all of them together: a few questions, not some for each.
        assert world.asked["squeue"] - counts[0]["squeue"] <= 5
        assert world.asked["sacct"] <= 5

    def test_good_ends_are_not_asked_of_the_controller(self, world: World, watcher: JobWatcher) -> None:
        jobs = [handle(number) for number in range(1, 51)]
        for number, job in enumerate(jobs):
            world.start(job)
            world.at(0.1 + number / 100, lambda job=job: world.finish(job))  # type: ignore[misc]
        subscriptions = [watcher.watch(job) for job in jobs]
        world.begin()
        assert {state_of(until_end(subscription)) for subscription in subscriptions} == {JobState.COMPLETED}
        # The first question about a new job may be due meanwhile.
        assert world.asked["squeue"] <= 1
        assert world.asked["sacct"] <= 5

    def test_bad_ends_are_asked_about_once_a_second(self, world: World, watcher: JobWatcher) -> None:
        jobs = [handle(number) for number in range(1, 201)]
        for number, job in enumerate(jobs):
            world.start(job)
            world.at(20 + number / 20, lambda job=job: world.finish(job, "FAILED", 7))  # type: ignore[misc]
        counts: list[int] = []
        world.at(19.5, lambda: counts.append(world.asked["squeue"]))
        subscriptions = [watcher.watch(job) for job in jobs]
        world.begin()
        assert {state_of(until_end(subscription)) for subscription in subscriptions} == {JobState.FAILED}
        assert world.asked["squeue"] - counts[0] <= (30 - 19.5) + 3 + 1

    def test_a_waiting_job_alone_costs_as_little(self, world: World, watcher: JobWatcher) -> None:
        world.queue["1"] = "PENDING"
        world.at(3600, lambda: world.start(JOB))
        world.at(3610, lambda: world.finish(JOB))
        seen = watch_to_end(world, watcher)
        assert seen[:2] == [NAMELESS, Started("n1", 0)]
        assert world.asked["squeue"] < 150

    def test_a_subscriber_that_does_not_read_stops_further_reads(
        self, world: World, watcher: JobWatcher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(events, "_MAX_PENDING_BYTES", 1000)
        world.start(JOB)
        asked_for: list[list[str]] = []
        world.at(1, lambda: world.write(JOB, "stdout.0", b"x" * 1000))
        world.at(5, lambda: world.write(JOB, "stdout.0", b"y" * 500))
        world.at(60, lambda: asked_for.append(world.read_names))
        world.at(61, lambda: world.finish(JOB))
        held = threading.Event()
        world.at(200, held.set)
        subscription = watcher.watch(JOB)
        world.begin()
        assert held.wait(REAL_SECONDS)
        seen = until_end(subscription)
        assert asked_for == [[JOB.directory.log_name("status")]]
        told = b"".join(event.data for event in seen if isinstance(event, Output))
        assert told == b"x" * 1000 + b"y" * 500
        assert state_of(seen) is JobState.COMPLETED


class TestWaitingForNews:
    """Where a look may wait on the cluster, lines come at once, and looks are no more than before."""

    @pytest.fixture
    def transport(self, world: World) -> WaitingTransport:
        return WaitingTransport(world)

    @pytest.fixture
    def watcher(self, world: World, transport: WaitingTransport) -> JobWatcher:
        return JobWatcher(SlurmCluster(transport, remote_base="/base"), clock=world, start=lambda ask: ask())

    def test_lines_come_at_once_and_looks_are_rare(
        self, world: World, watcher: JobWatcher, transport: WaitingTransport
    ) -> None:
        world.start(JOB)
        for second in range(10, 20):
            world.at(second + 0.037 * second, lambda: world.write(JOB, "stdout.0", b"x"))
        world.at(100, lambda: world.finish(JOB))
        subscription, came = watcher.watch(JOB), []
        put = subscription.put

        def noting(event: Event) -> None:
            if isinstance(event, Output):
                came.append(world.now())
            put(event)

        subscription.put = noting  # type: ignore[method-assign]
        world.begin()
        assert state_of(until_end(subscription)) is JobState.COMPLETED
        sent = [second + 0.037 * second for second in range(10, 20)]
        assert len(came) == len(sent)
        # A look of every twentieth of a second, or the pause between two answers.
        assert max(at - written for at, written in zip(came, sent, strict=True)) <= 0.13
        quiet = [at for at, _ in transport.waits if 30 <= at < 90]
        assert len(quiet) <= 60 / 0.6 + 1

    def test_while_a_job_ends_nothing_waits(
        self, world: World, watcher: JobWatcher, transport: WaitingTransport
    ) -> None:
        world.start(JOB)
        world.at(10, lambda: world.write_end(JOB))
        world.at(10, lambda: world.queue.update({"1": "COMPLETING"}))
        world.at(60, lambda: world.finish(JOB))
        assert state_of(watch_to_end(world, watcher)) is JobState.COMPLETED
        assert {seconds for at, seconds in transport.waits if 12 < at < 60} == {0.0}

    def test_while_slurm_is_asked_nothing_waits(self, world: World, transport: WaitingTransport) -> None:
        asking: list[Callable[[], None]] = []
        cluster = SlurmCluster(transport, remote_base="/base")
        watcher = JobWatcher(cluster, clock=world, start=asking.append)
        world.wait(JOB, "Resources")
        world.at(30, lambda: [ask() for ask in asking])  # type: ignore[func-returns-value]
        world.at(30, lambda: world.finish(JOB, "CANCELLED"))
        # What asks next is asked at once.
        world.at(30, lambda: setattr(watcher._beside, "_start", lambda ask: ask()))
        assert state_of(watch_to_end(world, watcher)) is JobState.CANCELLED
        assert {seconds for at, seconds in transport.waits if 3 < at < 29} == {0.0}
        assert world.asked["squeue"] <= 5


class TestSilence:
    """No answer never ends anything, and is told once."""

    def test_unreachable_for_an_hour(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(10, lambda: setattr(world, "unreachable", True))
        world.at(3610, lambda: setattr(world, "unreachable", False))
        world.at(3700, lambda: world.write(JOB, "stdout.0", b"still here"))
        world.at(3710, lambda: world.finish(JOB))
        seen = watch_to_end(world, watcher)
        gone, back = notices(seen)
        assert "The login node login does not answer; the job is not affected" in gone
        assert "The login node login answers again, after 3" in back
        assert [event.level for event in seen if isinstance(event, Notice)] == ["warning", "info"]
        assert Output("stdout", b"still here") in seen
        assert state_of(seen) is JobState.COMPLETED
        # Pauses that grow to 30 s.
        assert world.asked["unreachable"] < 3600 / 30 / 0.8 + 15

    def test_every_job_is_told(self, world: World, watcher: JobWatcher) -> None:
        jobs = [handle(1), handle(2)]
        for job in jobs:
            world.start(job)
        world.at(10, lambda: setattr(world, "unreachable", True))
        world.at(100, lambda: setattr(world, "unreachable", False))
        world.at(200, lambda: [world.finish(job) for job in jobs])  # type: ignore[func-returns-value]
        subscriptions = [watcher.watch(job) for job in jobs]
        world.begin()
        assert [len(notices(until_end(each))) for each in subscriptions] == [2, 2]

    def test_a_job_that_ended_while_unreachable(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(10, lambda: setattr(world, "unreachable", True))
        world.at(20, lambda: world.write(JOB, "stdout.0", b"last words"))
        world.at(20, lambda: world.finish(JOB, "FAILED", 3))
        world.at(9000, lambda: setattr(world, "unreachable", False))
        seen = watch_to_end(world, watcher)
        assert Output("stdout", b"last words") in seen
        assert state_of(seen) is JobState.FAILED

    def test_squeue_fails_for_long(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.at(10, lambda: setattr(world, "squeue_says", SQUEUE_DOWN))
        world.at(1000, lambda: world.write_end(JOB))
        world.at(1310, lambda: setattr(world, "squeue_says", b""))
        world.at(1310, lambda: world.finish(JOB))
        seen = watch_to_end(world, watcher)
        # It did not have to come back: sacct knew the end.
        assert [text.partition(" on login")[0] for text in notices(seen)] == ["squeue"]
        assert state_of(seen) is JobState.COMPLETED
        assert world.asked["squeue"] < 1300 / 30 / 0.8 + 30

    def test_output_of_squeue_that_nobody_knows_is_no_answer(self, world: World, watcher: JobWatcher) -> None:
        world.queue["1"] = "NO_SUCH_STATE"
        world.at(100, lambda: world.start(JOB))
        world.at(200, lambda: world.finish(JOB))
        seen = watch_to_end(world, watcher)
        assert len(notices(seen)) == 2
        assert state_of(seen) is JobState.COMPLETED

    @pytest.mark.parametrize(("code", "state"), [(0, JobState.COMPLETED), (3, JobState.FAILED)])
    @pytest.mark.parametrize(
        "says", [b"", SACCT_DOWN, SACCT_OFF, SACCT_MISSING], ids=["empty", "down", "off", "missing"]
    )
    def test_without_accounting_the_end_line_is_believed(
        self, world: World, watcher: JobWatcher, says: bytes, code: int, state: JobState
    ) -> None:
        world.sacct_says = says
        world.start(JOB)
        world.at(10, lambda: world.write_end(JOB, code))
        world.at(10, lambda: world.leave_queue(JOB))
        seen = watch_to_end(world, watcher)
        assert state_of(seen) is state
        assert isinstance(seen[-1], Ended)
        assert seen[-1].record is None
        waited = world.now() - 10
        assert waited < 3 if says in (SACCT_OFF, SACCT_MISSING) else 20 <= waited < 30

    def test_without_accounting_the_queue_s_last_word_is_believed(self, world: World, watcher: JobWatcher) -> None:
        world.sacct_says = SACCT_OFF
        world.start(JOB)
        world.at(10, lambda: world.queue.update({"1": "TIMEOUT"}))
        assert state_of(watch_to_end(world, watcher)) is JobState.TIMEOUT

    def test_accounting_that_lags_is_waited_for(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        world.records["1"] = "RUNNING"
        world.at(10, lambda: world.write_end(JOB, 1))
        world.at(10, lambda: world.leave_queue(JOB))
        world.at(25, lambda: world.records.update({"1": "OUT_OF_MEMORY"}))
        assert state_of(watch_to_end(world, watcher)) is JobState.OUT_OF_MEMORY

    def test_a_job_without_any_witness_is_given_up_after_its_patience(self, world: World, watcher: JobWatcher) -> None:
        world.queue["1"] = "RUNNING"
        world.at(100, lambda: world.leave_queue(JOB))
        last = watch_to_end(world, watcher)[-1]
        assert isinstance(last, Broken)
        assert isinstance(last.error, SubmissionUnknownError)
        assert last.error.job_id == "1"
        assert JOB.directory.path in str(last.error)
        assert world.now() >= 100 + Patience().unknown_seconds
        assert world.asked["sacct"] < 200

    def test_a_witness_that_comes_late_is_believed(self, world: World, watcher: JobWatcher) -> None:
        world.queue["1"] = "RUNNING"
        world.sacct_says = SACCT_DOWN
        world.at(100, lambda: world.leave_queue(JOB))
        world.at(1000, lambda: setattr(world, "sacct_says", b""))
        world.at(1000, lambda: world.records.update({"1": "COMPLETED"}))
        assert state_of(watch_to_end(world, watcher)) is JobState.COMPLETED
        assert world.now() < 1100


class TestTheThread:
    """One thread, there while there are jobs, that nothing ends quietly."""

    def test_an_unexpected_exception_reaches_every_subscriber_and_new_jobs_are_watched(
        self, world: World, watcher: JobWatcher
    ) -> None:
        jobs = [handle(1), handle(2)]
        for job in jobs:
            world.start(job)
        subscriptions = [watcher.watch(job) for job in jobs]
        world.at(10, lambda: setattr(world, "fault", ZeroDivisionError("a bug")))
        world.begin()
        for job, each in zip(jobs, subscriptions, strict=True):
            last = until_end(each)[-1]
            assert isinstance(last, Broken)
            assert type(last.error) is DagsterSlurmError
            assert "ZeroDivisionError: a bug" in str(last.error)
            assert last.error.job_id == job.job_id
        third = handle(3)
        world.start(third)
        subscription = watcher.watch(third)
        world.finish(third)
        assert state_of(until_end(subscription)) is JobState.COMPLETED

    def test_a_typed_error_is_told_as_it_is(self, world: World, watcher: JobWatcher) -> None:
        world.start(JOB)
        error = DagsterSlurmError("odd", hint="Do this.")
        world.at(10, lambda: setattr(world, "fault", error))
        assert watch_to_end(world, watcher)[-1] == Broken(error)

    def test_the_thread_ends_with_its_last_job_and_comes_again(self, world: World, watcher: JobWatcher) -> None:
        for number in (1, 2, 3):
            job = handle(number)
            world.start(job)
            world.finish(job)
            assert state_of(watch_to_end(world, watcher, job)) is JobState.COMPLETED
            thread = watcher._thread
            if thread is not None:
                thread.join(REAL_SECONDS)
            assert watcher._thread is None

    def test_a_forgotten_job_is_neither_read_nor_told(self, world: World, watcher: JobWatcher) -> None:
        other = handle(2)
        for job in (JOB, other):
            world.start(job)
        first, second = watcher.watch(JOB), watcher.watch(other)
        world.at(10, lambda: watcher.forget(first))
        world.at(20, lambda: world.write(JOB, "stdout.0", b"unheard"))
        world.at(50, lambda: world.finish(other))
        names: list[str] = []
        world.at(40, lambda: names.extend(world.read_names))
        world.begin()
        assert state_of(until_end(second)) is JobState.COMPLETED
        assert names
        assert all(name.startswith(other.directory.relative) for name in names)
        assert first.get(REAL_SECONDS) == Started("n1", 0)
        assert first.get(0.01) is None

    def test_a_hundred_jobs_from_many_threads_all_end(self, world: World, watcher: JobWatcher) -> None:
        jobs = [handle(number) for number in range(1, 101)]
        for job in jobs:
            world.start(job)
            world.write(job, "stdout.0", job.job_id.encode())
            world.finish(job)
        world.begin()
        results: dict[str, list[Event]] = {}

        def follow(job: JobHandle) -> None:
            results[job.job_id] = until_end(watcher.watch(job))

        threads = [threading.Thread(target=follow, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(REAL_SECONDS)
        for job in jobs:
            assert Output("stdout", job.job_id.encode()) in results[job.job_id]
            assert state_of(results[job.job_id]) is JobState.COMPLETED
