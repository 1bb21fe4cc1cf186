"""What is known of one job: offsets, incarnations, and patience for what is still coming."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dagster_slurm.cluster.judge import Silence
from dagster_slurm.job import events
from dagster_slurm.job.backoff import Pace
from dagster_slurm.job.events import Event, ManySubscriptions, Output, Started, Subscription
from dagster_slurm.job.watched import WatchedJob, awake
from dagster_slurm.run_directory import JobHandle, LaunchKey
from dagster_slurm.slurm.commands import SACCT_FIELDS
from dagster_slurm.slurm.output import AccountingRecord, parse_sacct
from dagster_slurm.slurm.states import JobState

KEY = LaunchKey("run", "step")
HANDLE = JobHandle(KEY.first_attempt("/base"), "12")


@pytest.fixture
def job() -> WatchedJob:
    return WatchedJob(HANDLE, Subscription(), Pace(1, 1), Pace(1, 1), Pace(1, 1))


def blocks(**files: bytes) -> Mapping[str, bytes]:
    return {HANDLE.directory.log_name(name.replace("_", ".")): data for name, data in files.items()}


def told(job: WatchedJob) -> list[Event]:
    seen: list[Event] = []
    assert isinstance(job.subscription, Subscription)
    while (event := job.subscription.get(0.001)) is not None:
        seen.append(event)
    return seen


def asked(job: WatchedJob) -> dict[str, int]:
    return {position.name.rpartition("/")[2]: position.offset for position in job.positions()}


def test_everything_is_read_from_its_start(job: WatchedJob) -> None:
    assert asked(job) == {"status": 0, "stdout.0": 0, "stderr.0": 0, "messages.0": 0}


def test_offsets_follow_what_was_read(job: WatchedJob) -> None:
    assert job.take(blocks(stdout_0=b"abc", status=b"start 12 0 1.0 n1\nend"))
    assert not job.take({})
    assert asked(job) == {"status": 21, "stdout.0": 3, "stderr.0": 0, "messages.0": 0}
    assert told(job) == [Output("stdout", b"abc"), Started("n1", 0)]
    assert job.nodes == "n1"


def test_a_cut_status_line_is_taken_when_it_is_whole(job: WatchedJob) -> None:
    for piece in (b"end 12 0 7 1.0", b" 0 0 0", b"\n"):
        assert job.end_mark is None
        job.take(blocks(status=piece))
    assert job.end_mark is not None
    assert job.end_mark.exit_code == 7


def test_files_of_other_jobs_are_not_taken(job: WatchedJob) -> None:
    assert not job.take({"run/other/log/stdout.0": b"x", "run/other/log/status": b"start 13 0 1.0 n1\n"})
    job.take(blocks(status=b"start 13 0 1.0 n9\nend 13 0 0 1.0 0 0 0\n"))
    assert (job.nodes, job.end_mark, told(job)) == (None, None, [])


def test_a_requeue_reads_the_new_files_from_their_start_and_forgets_the_end(job: WatchedJob) -> None:
    job.take(blocks(stdout_0=b"old", status=b"start 12 0 1.0 n1\nend 12 0 143 2.0 3 0 0\n"))
    assert job.end_mark is not None
    job.take(blocks(status=b"start 12 1 3.0 n2\n"))
    assert job.end_mark is None
    assert asked(job) == {"status": 59, "stdout.1": 0, "stderr.1": 0, "messages.1": 0}
    job.take(blocks(stdout_1=b"new", stdout_0=b"late"))
    assert told(job) == [Output("stdout", b"old"), Started("n1", 0), Started("n2", 1), Output("stdout", b"new")]
    assert asked(job)["stdout.1"] == 3


@pytest.mark.parametrize("at_once", [False, True])
def test_marks_of_an_older_incarnation_are_dropped(job: WatchedJob, at_once: bool) -> None:
    lines = [b"start 12 0 1.0 n1\n", b"start 12 1 3.0 n2\n", b"end 12 0 143 4.0 999 0 0\n", b"start 12 0 5.0 n1\n"]
    for text in [b"".join(lines)] if at_once else lines:
        job.take(blocks(status=text))
    assert (job.end_mark, job.restart, job.nodes) == (None, 1, "n2")
    job.take(blocks(status=b"end 12 1 0 6.0 0 0 0\n"))
    assert job.end_mark is not None
    assert job.end_mark.exit_code == 0


def test_an_end_without_its_start_belongs_to_its_own_incarnation(job: WatchedJob) -> None:
    job.take(blocks(status=b"start 12 0 1.0 n1\nend 12 1 5 6.0 2 0 0\n"))
    assert job.restart == 1
    assert not job.logs_complete()
    job.take(blocks(stdout_1=b"ab"))
    assert job.logs_complete()


def test_logs_are_complete_when_everything_that_the_end_counts_was_read(job: WatchedJob) -> None:
    job.take(blocks(stdout_0=b"ab", status=b"end 12 0 0 1.0 3 1 0\n"))
    assert not job.logs_complete()
    job.take(blocks(stdout_0=b"c"))
    assert not job.logs_complete()
    job.take(blocks(stderr_0=b"e"))
    assert job.logs_complete()


def test_without_an_end_line_only_a_look_after_the_end_shows_all(job: WatchedJob) -> None:
    job.take(blocks(stdout_0=b"ab"))
    job.queue = JobState.COMPLETED
    assert not job.witnesses(1.0).logs_complete
    job.take({})
    assert job.witnesses(2.0).logs_complete


def tasks_of_an_array(count: int) -> list[WatchedJob]:
    made = (JobHandle(HANDLE.directory.of_element(task), f"12_{task}") for task in range(count))
    return [WatchedJob(handle, Subscription(), Pace(1, 1), Pace(1, 1), Pace(1, 1)) for handle in made]


def test_of_an_array_those_that_may_have_begun_are_awake_and_the_next_few() -> None:
    jobs = tasks_of_an_array(200)
    assert [job.handle.job_id for job in awake(jobs)] == [f"12_{task}" for task in range(64)]
    for job in jobs:
        job.queue = JobState.PENDING
    jobs[0].queue = JobState.COMPLETED
    jobs[150].queue = JobState.RUNNING
    jobs[160].queue = Silence.GONE
    assert [job.handle.job_id for job in awake(jobs)] == [f"12_{task}" for task in (*range(65), 150, 160)]


def test_a_task_has_files_of_its_own() -> None:
    job = tasks_of_an_array(8)[7]
    assert job.positions()[0].name == f"{HANDLE.directory.relative}/elements/7/log/status"
    line = ManySubscriptions()
    job.subscription = line.of(7)
    job.take({job.positions()[0].name: b"start 12_7 0 1.0 n1\n"})
    assert line.get(0.1) == (7, Started("n1", 0))
    assert line.get(0.001) is None


def test_many_jobs_share_one_bound() -> None:
    line = ManySubscriptions()
    room = line.room_bytes
    line.of(1).put(Output("stdout", b"abc"))
    assert line.of(2).room_bytes == room - 3
    assert line.get(0.1) == (1, Output("stdout", b"abc"))
    assert line.room_bytes == room


def test_over_counts_from_the_moment_it_is_known(job: WatchedJob) -> None:
    job.queue = JobState.RUNNING
    assert job.witnesses(100.0).over_seconds == 0
    job.queue = Silence.GONE
    assert job.witnesses(200.0).over_seconds == 0
    assert job.witnesses(215.0).over_seconds == 15
    job.queue = JobState.PENDING
    assert job.witnesses(220.0).over_seconds == 0
    job.queue = Silence.GONE
    assert job.witnesses(300.0).over_seconds == 0


def test_patience_for_the_logs_begins_when_nothing_comes_any_more(job: WatchedJob) -> None:
    job.queue = Silence.GONE
    job.take(blocks(status=b"end 12 0 0 1.0 100 0 0\n"))
    assert job.witnesses(0.0).over_seconds == 0
    for now in (30.0, 60.0):
        job.take(blocks(stdout_0=b"x" * 10))
        assert job.witnesses(now).over_seconds == 0
    job.take({})
    assert job.witnesses(70.0).over_seconds == 10
    job.take({})
    assert job.witnesses(80.0).over_seconds == 20


def test_patience_for_the_logs_does_not_run_out_on_a_slow_reader(
    job: WatchedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_MAX_PENDING_BYTES", 10)
    job.queue = Silence.GONE
    job.take(blocks(stdout_0=b"x" * 10, status=b"end 12 0 0 1.0 15 0 0\n"))
    assert asked(job).keys() == {"status"}
    for now in (0.0, 50.0, 100.0):
        job.take({})
        assert job.witnesses(now).over_seconds == 0
    assert len(told(job)) == 1
    assert asked(job)["stdout.0"] == 10
    job.take({})
    assert job.witnesses(120.0).over_seconds == 20


def test_a_process_that_writes_on_after_the_end_holds_nothing_up(job: WatchedJob) -> None:
    job.queue = Silence.GONE
    for now in (0.0, 10.0, 20.0):
        job.take(blocks(stdout_0=b"still here"))
        assert job.witnesses(now).over_seconds == now


def test_a_full_line_is_not_read_further_and_goes_on_when_read(
    job: WatchedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_MAX_PENDING_BYTES", 4)
    job.take(blocks(stdout_0=b"abc", stderr_0=b"de"))
    assert job.subscription.room_bytes == 0
    assert asked(job).keys() == {"status"}
    assert job.subscription.get(0.1) == Output("stdout", b"abc")
    assert asked(job) == {"status": 0, "stdout.0": 3, "stderr.0": 2, "messages.0": 0}


def record(state: str) -> AccountingRecord:
    values = {"JobID": "12", "State": state, "ExitCode": "0:0", "JobName": HANDLE.directory.job_name()}
    return parse_sacct("|".join(values.get(name, "") for name in SACCT_FIELDS) + "\n")["12"]


@pytest.mark.parametrize(
    ("state", "is_believed"),
    [("COMPLETED", True), ("NODE_FAIL", False), ("PREEMPTED", False), ("FAILED", False), ("RUNNING", False)],
)
def test_before_it_has_left_the_queue_only_a_good_end_is_believed(
    job: WatchedJob, state: str, is_believed: bool
) -> None:
    job.take(blocks(status=b"end 12 0 0 1.0 0 0 0\n"))
    job.witnesses(0.0)
    job.take_record(record(state))
    assert job.witnesses(0.0).is_over is is_believed


def test_what_was_asked_before_the_last_line_of_its_status_is_too_old(job: WatchedJob) -> None:
    job.take(blocks(stdout_0=b"output says nothing of a state"))
    job.note_moment(5.0)
    assert job.answers_after == float("-inf")
    job.take(blocks(status=b"start 12 0 1.0 n1\n"))
    job.note_moment(6.0)
    job.note_moment(7.0)
    assert job.answers_after == 6.0
