"""Files that grow, read as lines, until the jobs have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from dagster_slurm.cluster.slurm_cluster import FilePosition
from dagster_slurm.errors import SlurmUnavailableError
from dagster_slurm.housekeeping import named_jobs
from dagster_slurm.housekeeping.named_jobs import PayloadLogs, Source
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.output import parse_squeue

DIRECTORY = RunDirectory("/b", "run", "one-0123456789ab")
START, END = b"start 17 0 100.0 n1\n", b"end 17 0 0 103.5 12 0 0\n"
Step = Mapping[str, bytes | None] | str


class Growing:
    """A cluster on which files grow by one step at each look; a word is what squeue says from then on."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.files: dict[str, bytes | None] = {}
        self.state = "RUNNING"
        self.asked = 0

    def read_new(self, at: Sequence[FilePosition], *, max_bytes: int, wait_seconds: float = 0.0) -> Mapping[str, bytes]:
        del wait_seconds
        step = self.steps.pop(0) if self.steps else {}
        if isinstance(step, str):
            self.state = step
        else:
            self.files |= {
                name: None if text is None else (self.files.get(name) or b"") + text for name, text in step.items()
            }
        new = {}
        for each in at:
            text = self.files.get(each.name.rpartition("/")[2], b"")
            if text is None:
                new[each.name] = b""
            elif text[each.offset :]:
                new[each.name] = text[each.offset : each.offset + max_bytes]
        return new

    def queue(self, job_ids: Sequence[str]) -> Mapping[str, Any]:
        self.asked += 1
        if self.state == "AWAY":
            self.state = "COMPLETED"
            raise SlurmUnavailableError("squeue: no answer", returncode=1, stderr="")
        return {} if self.state == "GONE" else {job_id: entry(job_id, self.state) for job_id in job_ids}


def entry(job_id: str, state: str) -> Any:
    (found,) = parse_squeue(f"{job_id}|{job_id}|N/A|{state}|N/A|N/A|None|n1|one|/b\n")
    return found


@pytest.fixture(autouse=True)
def no_time_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(named_jobs, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now[0]))


def read(cluster: Growing, *, follow: bool) -> list[tuple[bool, str]]:
    reader = PayloadLogs(cluster, [Source("17", "", DIRECTORY)])  # type: ignore[arg-type]
    return [(each.is_error, each.text) for each in (reader.followed() if follow else reader.there())]


def test_what_is_there_and_the_rest_of_a_line() -> None:
    cluster = Growing({"status": START, "stdout.0": b"one\ntw", "stderr.0": b"no\n", "slurm.log": b"slurmstepd: x\n"})
    assert read(cluster, follow=False) == [(False, "one\n"), (True, "no\n"), (True, "slurmstepd: x\n"), (False, "tw\n")]
    assert cluster.asked == 0


def test_it_is_followed_to_its_end() -> None:
    cluster = Growing(
        {"status": START, "stdout.0": b"one\ntw"}, {}, {"stdout.0": b"o\nend!"}, {"status": END}, "COMPLETED"
    )
    assert read(cluster, follow=True) == [(False, "one\n"), (False, "two\n"), (False, "end!\n")]


def test_one_that_was_killed_has_ended_when_slurm_says_so() -> None:
    cluster = Growing({"status": START, "stdout.0": b"one\n"}, "CANCELLED")
    assert read(cluster, follow=True) == [(False, "one\n")]
    assert cluster.asked == 1


def test_no_answer_ends_nothing() -> None:
    cluster = Growing({"status": START + END, "stdout.0": b"12 bytes...\n"}, "AWAY")
    assert read(cluster, follow=True) == [(False, "12 bytes...\n")]
    assert cluster.asked == 2


def test_one_that_is_requeued_goes_on() -> None:
    requeued = {"status": START + END, "stdout.0": b"12 bytes...\n"}
    again = {"status": b"start 17 1 200.0 n2\n", "stdout.1": b"again\n"}
    cluster = Growing(requeued, "PENDING", {}, again, {"status": b"end 17 1 0 203.5 6 0 0\n"}, "COMPLETED")
    assert read(cluster, follow=True) == [(False, "12 bytes...\n"), (False, "again\n")]


def test_a_directory_that_is_removed_ends_it() -> None:
    cluster = Growing({"status": START, "stdout.0": b"one\n"}, {"status": None}, "GONE")
    assert read(cluster, follow=True) == [(False, "one\n")]


def test_a_bar_of_progress_and_a_character_in_two_parts() -> None:
    cluster = Growing(
        {"stdout.0": b"10 %\r50 %\r"}, {"stdout.0": b"100 %\r\ngr\xc3"}, {"stdout.0": b"\xb6\xc3\x9fer\n"}
    )
    text = "".join(said for _, said in read(cluster, follow=False))
    assert text == "10 %\n50 %\n100 %\ngrößer\n"
