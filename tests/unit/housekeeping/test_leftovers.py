"""What lies there, put together to pieces of work, and what is printed of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.support.launches import claim_record

from dagster_slurm.cluster.description import Description, parse_marks
from dagster_slurm.cluster.records import AttemptRecord, LaunchRecord, Listing
from dagster_slurm.housekeeping.jobs_table import RunStanding, Wanted, Word, job_rows
from dagster_slurm.housekeeping.jobs_table import lines_of as lines_of_jobs
from dagster_slurm.housekeeping.leftovers import Terms, as_json, is_open, leftovers, lines_of, measured, summary
from dagster_slurm.housekeeping.listed_jobs import Accounting, Snapshot, seen_jobs
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.output import UserQueueEntry, parse_squeue_of_user

DAY = 86400.0
NOW = 100 * DAY
KEY = "step-0123456789ab"
START, END = "start 17 0 100.0 n1\n", "end 17 0 0 165.5 1 2 3\n"


def attempt(run: str, number: int = 0, protocol: str = "1", status: str = START, job_id: str = "17") -> AttemptRecord:
    told = Description(run, run, step_key="step", assets=("a/b",), partition_keys=("x y",))
    claims = (claim_record(0, job_id, job_id),) if job_id else ()
    marks = parse_marks(status)[0]
    return AttemptRecord(RunDirectory("/b", run, KEY, number), protocol, told, marks, claims)


def launch(run: str, *attempts: AttemptRecord, **known: object) -> LaunchRecord:
    values = {"changed_at": NOW - 50 * DAY, "run_touched_at": NOW - 50 * DAY, "state": f"state-{run}", **known}
    return LaunchRecord(run, KEY, attempts, **values)  # type: ignore[arg-type]


def running(job_id: str = "17", state: str = "RUNNING") -> UserQueueEntry:
    (entry,) = parse_squeue_of_user(
        f"gpu,cpu|1:01:00|59:00|2:00:00|1|2|1G|gres:gpu:1|{job_id}|{job_id}|N/A|{state}|N/A|N/A|None|n1|{KEY}|/home/me\n"
    )
    return entry


def seen(*launches: LaunchRecord, queue: Sequence[UserQueueEntry] = (), **known: object) -> Snapshot:
    listing = Listing(NOW, launches, **known)  # type: ignore[arg-type]
    return Snapshot(listing, seen_jobs(listing, queue), Accounting({}))


def over(run_ids: Sequence[str], step_key: str) -> Word:
    return Word(RunStanding.OVER, run_ids[0], "FAILURE", 40 * DAY)


def unknown(run_ids: Sequence[str], step_key: str) -> Word:
    return Word(RunStanding.UNKNOWN, run_ids[0])


def removed(snapshot: Snapshot, word_of: object = over, terms: Terms | None = None) -> dict[str, bool]:
    assert callable(word_of)
    found = leftovers(snapshot, word_of, terms or Terms())
    return {path: each.decision.removed for each in found for path in each.paths}


def test_a_live_job_protects_every_launch_that_shares_it() -> None:
    owner, adopter = launch("a", attempt("a")), launch("b", adopted={0: f"a/{KEY}/0"})
    further = launch("c", adopted={0: f"a/{KEY}/0"})
    found = leftovers(seen(owner, further, adopter, queue=[running()]), over, Terms(0.0, everything=True))
    assert [each.paths for each in found] == [(f"runs/a/{KEY}", f"runs/b/{KEY}", f"runs/c/{KEY}")]
    assert found[0].decision.reason == "job 17 is RUNNING"


def test_the_runs_of_all_that_share_a_job_are_asked_about() -> None:
    asked = []

    def word_of(run_ids: Sequence[str], step_key: str) -> Word:
        asked.append((tuple(run_ids), step_key))
        return over(run_ids, step_key)

    leftovers(seen(launch("b", attempt("b")), launch("a", adopted={0: f"b/{KEY}/0"})), word_of, Terms())
    assert asked == [(("b", "a"), "step")]


def test_all_launches_of_a_piece_are_removed_as_they_were_listed() -> None:
    snapshot = seen(launch("a", attempt("a", status=START + END)), launch("b", adopted={0: f"a/{KEY}/0"}))
    (found,) = leftovers(snapshot, lambda ids, step: Word(RunStanding.SUCCEEDED), Terms())
    assert found.orders == (f"launch a/{KEY} state-a", f"launch b/{KEY} state-b")


@pytest.mark.parametrize("protocol", ["", "2", "1.5", "one"])
def test_an_unknown_protocol_protects_the_whole_launch(protocol: str) -> None:
    both = launch("a", attempt("a"), attempt("a", 1, protocol))
    for word_of in (over, unknown, lambda ids, step: Word(RunStanding.SUCCEEDED)):
        assert removed(seen(both), word_of, Terms(0.0, everything=True)) == {f"runs/a/{KEY}": False}


def test_what_somebody_else_has_put_there_protects_it() -> None:
    assert removed(seen(launch("a", unknown=("notes",))), over, Terms(0.0, everything=True)) == {f"runs/a/{KEY}": False}


def test_an_upload_of_today_protects_it_and_one_of_yesterday_goes_along() -> None:
    young = launch("a", attempt("a", status=START + END.replace(" 0 165", " 1 165")), half_made={"1.part.7": NOW - 60})
    assert removed(seen(young)) == {f"runs/a/{KEY}": False, f"runs/a/{KEY}/1.part.7": False}
    old = replace(young, half_made={"1.part.7": NOW - 2 * DAY})
    assert removed(seen(old)) == {f"runs/a/{KEY}": True}


def test_an_old_upload_in_a_launch_that_stays() -> None:
    busy = launch("a", attempt("a"), half_made={"1.part.7": NOW - 2 * DAY})
    assert removed(seen(busy, queue=[running()])) == {f"runs/a/{KEY}": False, f"runs/a/{KEY}/1.part.7": True}


def test_half_made_empty_and_dangling() -> None:
    snapshot = seen(
        launch("a", half_made={"0.part.1": NOW - 2 * DAY, "0.part.2": NOW}),
        launch("b"),
        launch("c", changed_at=NOW),
        empty_runs={"d": NOW - 2 * DAY},
        dangling_links=("0011",),
    )
    assert removed(snapshot) == {
        f"runs/a/{KEY}/0.part.1": True,
        f"runs/a/{KEY}/0.part.2": False,
        f"runs/b/{KEY}": True,
        f"runs/c/{KEY}": False,
        "runs/d": True,
        "assets/0011": True,
    }


def test_an_adopted_link_whose_target_is_gone() -> None:
    assert removed(seen(launch("b", adopted={0: f"gone/{KEY}/0"}))) == {f"runs/b/{KEY}": True}
    in_progress = lambda ids, step: Word(RunStanding.IN_PROGRESS, ids[0])  # noqa: E731
    assert removed(seen(launch("b", adopted={0: f"gone/{KEY}/0"})), in_progress) == {f"runs/b/{KEY}": False}


def test_age_is_that_of_the_last_change_and_of_the_run_s_end() -> None:
    failed = attempt("a", status=START + "end 17 0 1 103.5 1 2 3\n")
    assert removed(seen(launch("a", failed))) == {f"runs/a/{KEY}": True}
    assert removed(seen(launch("a", failed, changed_at=NOW - DAY))) == {f"runs/a/{KEY}": False}
    ended_now = lambda ids, step: Word(RunStanding.OVER, ids[0], "FAILURE", 60.0)  # noqa: E731
    assert removed(seen(launch("a", failed)), ended_now) == {f"runs/a/{KEY}": False}


def test_a_job_without_a_witness_counts_by_its_run_s_directory() -> None:
    # As a job of another cluster would, that shares the home directory.
    touched = launch("a", attempt("a"), run_touched_at=NOW - 60)
    assert removed(seen(touched), over, Terms(everything=True)) == {f"runs/a/{KEY}": False}
    assert removed(seen(replace(touched, run_touched_at=0.0)), over, Terms(everything=True)) == {f"runs/a/{KEY}": True}


def test_sacct_is_asked_of_what_is_open_only() -> None:
    snapshot = seen(
        launch("a", attempt("a")), launch("b", attempt("b", status=START + END.replace("17", "18"), job_id="18"))
    )
    assert [(job.job_id, is_open(job)) for job in snapshot.jobs] == [("17", True), ("18", False)]
    assert not is_open(seen(launch("a", attempt("a")), queue=[running()]).jobs[0])


def test_report() -> None:
    snapshot = seen(launch("a", attempt("a")), dangling_links=("0011",))
    found = measured(leftovers(snapshot, over, Terms()), lambda paths: {f"runs/a/{KEY}": 2048})
    lines = lines_of(found, None)
    assert lines[1].split(maxsplit=4) == ["remove", "0", "B", "assets/0011", "a link to what is not there any more"]
    assert lines[0].startswith("keep    2 MiB  runs/a/")
    assert summary(found, None) == "1 to remove (0 B), 1 to keep. Nothing was removed; --yes does it."
    assert summary(found[:1], None) == "0 to remove (0 B), 1 to keep."
    assert summary(found, {found[1]: True}) == "1 removed (0 B), 1 kept."
    changed = "0 removed (0 B), 2 kept. 1 could not be removed, or have changed meanwhile."
    assert summary(found, {found[1]: False}) == changed
    told = as_json(found, {found[1]: False}, base="/b")["leftovers"]
    assert [(row["action"], row["paths"]) for row in told] == [
        ("keep", [f"/b/runs/a/{KEY}"]),
        ("left", ["/b/assets/0011"]),
    ]


def test_rows_of_jobs() -> None:
    snapshot = seen(launch("run-1", attempt("run-1")), queue=[running()])
    (row,) = job_rows(snapshot, lambda ids, step: Word(RunStanding.OVER, "newer-2", "FAILURE"), Wanted())
    assert (row.run_id, row.run_status, row.asset, row.as_json()["partition_key"]) == (
        "newer-2",
        "FAILURE",
        "a/b",
        "x y",
    )
    assert (row.partition, row.state, row.reason, row.nodes) == ("gpu,cpu", "RUNNING", "", "n1")
    assert (row.elapsed_seconds, row.directory) == (3660.0, f"/b/runs/run-1/{KEY}/0")
    line = lines_of_jobs([row])[1].split()
    assert line[:9] == ["17", "newer", "FAILURE", "a/b", "x_y", "gpu,cpu", "R", "1:01:00", "59:00"]
    assert line[9:] == ["2:00:00", "1", "2", "1G", "gres:gpu:1", "n1"]


def test_rows_of_jobs_that_squeue_has_forgotten() -> None:
    snapshot = seen(launch("run-1", attempt("run-1", status=START + END)))
    assert job_rows(snapshot, unknown, Wanted()) == []
    (row,) = job_rows(snapshot, unknown, Wanted(everything=True))
    assert (row.run_id, row.run_status, row.state, row.nodes, row.elapsed_seconds) == ("run-1", "", "ENDED", "n1", 65.5)


def test_a_row_of_a_job_whose_directory_is_gone() -> None:
    (row,) = job_rows(seen(queue=[running()]), unknown, Wanted())
    assert (row.asset, row.directory, row.run_id) == ("step", "", "")


def test_its_run_is_known_by_where_slurm_says_that_it_runs() -> None:
    queued = running()
    entry = replace(queued.entry, work_directory=f"/b/runs/run-1/{KEY}/0/work")
    (row,) = job_rows(seen(queue=[replace(queued, entry=entry)]), over, Wanted(of_run="run-1"))
    assert (row.asset, row.directory, row.run_id, row.run_status) == ("step", "", "run-1", "FAILURE")


@pytest.mark.parametrize(
    ("of_run", "shown"), [("", 1), ("run-1", 1), ("run", 1), ("newer-2", 1), ("newer-3", 0), ("1", 0)]
)
def test_rows_of_one_run(of_run: str, shown: int) -> None:
    """The one that works on it, or the one that has asked for it."""
    snapshot = seen(launch("run-1", attempt("run-1")), queue=[running()])
    word = Word(RunStanding.OVER, "newer-2", "FAILURE")
    assert len(job_rows(snapshot, lambda ids, step: word, Wanted(of_run=of_run))) == shown
