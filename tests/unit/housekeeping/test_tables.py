"""Tables on a terminal: what is cut, what is left out, and that nothing is longer than a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from dagster_slurm.housekeeping.jobs_table import JobRow, clock
from dagster_slurm.housekeeping.jobs_table import lines_of as lines_of_jobs
from dagster_slurm.housekeeping.leftovers import Decision, Leftover
from dagster_slurm.housekeeping.leftovers import lines_of as lines_of_clean
from dagster_slurm.housekeeping.tables import Column, cut, fitted, table, without_long_ids, wrapped

DAYS = tuple(f"2026-01-{day:02d}" for day in range(1, 13))
JOBS = [
    JobRow(
        "4711",
        "5e3c7c44-9d2d-4f1c-b7bb-31cd3a8ff0a5",
        "STARTED",
        "weather/grid",
        ("2026-01-04",),
        "compute",
        "RUNNING",
        nodes="n[1-2]",
        elapsed_seconds=8049.0,
        left_seconds=78351.0,
        limit_seconds=86400.0,
        node_count=2,
        cpus=64,
        memory="120G",
    ),
    JobRow(
        "4712",
        "5e3c7c44-9d2d-4f1c-b7bb-31cd3a8ff0a5",
        "STARTED",
        "weather/daily_statistics",
        DAYS,
        "compute",
        "RUNNING",
        {"RUNNING": 4, "PENDING": 7, "FAILED": 1},
        "JobArrayTaskLimit",
        "n3,n4",
        elapsed_seconds=5.0,
        left_seconds=595.0,
        limit_seconds=600.0,
        node_count=1,
        cpus=4,
        memory="300M",
    ),
    JobRow("4698", "b1de6a29", "FAILURE", "model", state="COMPLETED", nodes="n3", elapsed_seconds=98571.0, cpus=8),
    JobRow("4713", asset="step", state="PENDING", reason="QOSMaxJobsPerUserLimit", limit_seconds=60.0, cpus=1),
]
AT_80 = """\
JOBID  RUN       ASSET      KEY            ST              TIME_LEFT  NODELIST(…
4711   5e3c7c44  weather/…  2026-01-04     R               21:45:51   n[1-2]
4712   5e3c7c44  weather/…  2026-01-01+11  4 R, 7 PD, 1 F  9:55       n3,n4
4698   b1de6a29  model      -              CD              -          n3
4713   -         step       -              PD              -          (QOSMaxJo…
"""


def drawn(rows: list[JobRow], width: int | None) -> str:
    return "".join(f"{line}\n" for line in lines_of_jobs(rows, width))


def test_jobs_at_80_columns() -> None:
    assert drawn(JOBS, 80) == AT_80


def test_jobs_that_are_piped_have_every_column_and_a_word_in_each() -> None:
    heading, *lines = drawn(JOBS, None).splitlines()
    assert len(heading.split()) == 15
    assert {len(line.split()) for line in lines} == {15}
    assert ",".join(DAYS) in lines[1].split()
    assert "4R,7PD,1F" in lines[1].split()


@pytest.mark.parametrize("width", range(70, 200, 7))
def test_jobs_fit(width: int) -> None:
    assert max(map(len, lines_of_jobs(JOBS, width))) <= width


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0.0, "0:00"), (5.9, "0:05"), (605.0, "10:05"), (8049.0, "2:14:09"), (98571.0, "1-03:22:51")],
)
def test_times_are_as_squeue_writes_them(seconds: float | None, shown: str) -> None:
    assert clock(seconds) == shown


RUN = "5e3c7c44-9d2d-4f1c-b7bb-31cd3a8ff0a5"
LEFT = [
    Leftover((f"runs/{RUN}/weather__grid-3f0c2d1e9a8b",), (), Decision(False, "job 4711 is RUNNING"), 1258291),
    Leftover(
        ("runs/b1de6a29-07c5-4a53-9a2d-0c2f8f2f2d4e/model-9e8d7c6b5a40",),
        (),
        Decision(
            False,
            "its result was never collected; "
            "re-execute run b1de6a29-07c5-4a53-9a2d-0c2f8f2f2d4e from failure, or --all",
        ),
        2560,
    ),
    Leftover(("assets/1f2e3d4c5b6a",), (), Decision(True, "a link to what is not there any more"), 0),
]
CLEAN_AT_80 = """\
keep    1.2 GiB  runs/5e3c7c44…/weather__grid-3f0c2d1e9a8b
    job 4711 is RUNNING
keep    2.5 MiB  runs/b1de6a29…/model-9e8d7c6b5a40
    its result was never collected; re-execute run b1de6a29… from failure, or
    --all
remove  0 B      assets/1f2e3d4c5b6a
    a link to what is not there any more
"""


def test_clean_at_80_columns() -> None:
    assert "".join(f"{line}\n" for line in lines_of_clean(LEFT, None, 80)) == CLEAN_AT_80
    # Piped, and where there is room, there is a line for each.
    assert lines_of_clean(LEFT, None) == lines_of_clean(LEFT, None, 300)
    assert RUN in lines_of_clean(LEFT, None)[0]


def test_what_a_site_says_cannot_move_the_cursor() -> None:
    (_, line) = table([Column("NODES", least=8)], [["n1\x1b[2J\u202e"]], 80)
    assert line == r"n1\x1b[2J\u202e"


@pytest.mark.parametrize(
    ("text", "width", "made"),
    [
        ("short", 8, "short   "),
        ("weather/grid", 8, "weather…"),
        ("日本語の資産", 8, "日本語 …"),
        ("日本語", 6, "日本語"),
    ],
)
def test_words_are_as_wide_as_a_terminal_shows_them(text: str, width: int, made: str) -> None:
    assert cut(text, width) == made


@given(st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), max_size=4), st.integers(30, 90))
def test_what_may_be_cut_is_cut_until_it_fits(rows: list[list[str]], width: int) -> None:
    columns = [Column("A", least=5), Column("B", goes=1, least=5), Column("C", least=5)]
    assert all(cell_len(line) <= width for line in table(columns, rows, width))


def test_paths_and_ids_of_jobs_stay_whole() -> None:
    path = f"/shared/{'long/' * 20}"
    assert wrapped(f"The environment {path} is not there", 40, indent=2) == [
        "  The environment",
        f"  {path}",
        "  is not there",
    ]
    assert fitted("a line that is too long", 10) == "a line th…"
    assert fitted("a line that is too long", None) == "a line that is too long"
    assert table([Column("JOBID")], [["123456789"]], 5)[1] == "123456789"
    assert without_long_ids(f"run {RUN} is over") == "run 5e3c7c44… is over"
