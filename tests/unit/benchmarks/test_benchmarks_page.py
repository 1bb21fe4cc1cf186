"""The page of the benchmarks is made from figures by pure functions."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[3]
# The benchmarks are programs, which import what lies beside them.
sys.path.append(str(ROOT / "benchmarks"))

import figures as figures_  # noqa: E402
import page  # noqa: E402
import plot  # noqa: E402
from figures import Figures, Row, Table  # noqa: E402

FLOOR = Row("sbatch", 20, 10.0, 0.2, 1.0, 2, 0, 0, 50)
OURS = Row("threaded", 20, 15.0, 4.0, 100.0, 7, 1, 2, 25, 0.15, 0.4)
RELEASED = Row("released", 20, 60.0, 100.0, 3000.0, 40, 700, 900, 800, 0.04, 2.5)
FAILED = Row("released", 20, failed="ended with status 1")
ARRAYS = [replace(FLOOR, number=1000), replace(OURS, contender="partitions", number=1000)]
FIGURES = Figures("2026-11-22", 0.1, {"Slurm": "22.05.8"}, [FLOOR, OURS, RELEASED], ARRAYS, [])


def cells_of(table: str, name: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if f"| {name} |" in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_committed_page_is_what_the_figures_say() -> None:
    measured = figures_.from_text(figures_.FILE.read_text(encoding="utf-8"))
    docs = ROOT / "docs"
    assert (docs / "benchmarks.md").read_text(encoding="utf-8") == page.page(measured)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in (docs / page.PLOTS).iterdir()}
    assert drawn == page.plots(measured)


def test_figures_come_back_as_they_were() -> None:
    measured = replace(FIGURES, others=[Table("One", ["a", "b"], [["1", "2"]])])
    assert figures_.from_text(figures_.as_text(measured)) == measured


def test_wall_time_stands_beside_the_floor() -> None:
    table = page.matrix(FIGURES.jobs, "jobs")
    assert cells_of(table, "**`threaded_executor`**")[2:4] == ["15.0", "1.50"]
    assert cells_of(table, "`sbatch`")[-2:] == ["-", "-"]


def test_ratios_are_to_ours_at_the_largest_number_that_all_have() -> None:
    table = page.ratios([*FIGURES.jobs, replace(OURS, number=200), replace(FLOOR, number=200)], "threaded")
    assert table.startswith("| 20 jobs, as multiples | wall |")
    assert cells_of(table, "released")[1:] == ["4.00", "25", "30", "5.71", "700", "450", "32"]


def test_what_has_failed_says_so_and_has_no_ratio() -> None:
    rows = [FLOOR, OURS, FAILED]
    assert "ended with status 1" in page.matrix(rows, "jobs")
    assert page.ratios(rows, "threaded") == ""


def test_figures_of_a_busy_machine_say_so() -> None:
    assert "**The machine was busy" not in page.page(FIGURES)
    assert "**The machine was busy" in page.page(replace(FIGURES, load_before=8.0))


@pytest.mark.parametrize(
    ("value", "of", "text"),
    [(1.0, 3.0, "0.33"), (12.3, 1.0, "12"), (7410.0, 1.0, "7,410"), (0.0, 5.0, "0"), (5.0, 0.0, "-"), (None, 1.0, "-")],
)
def test_ratio(value: float | None, of: float, text: str) -> None:
    assert page.ratio(value, of) == text


def test_every_picture_is_on_the_page_and_is_well_formed() -> None:
    text = page.page(FIGURES)
    pictures = page.plots(FIGURES)
    assert {"jobs-wall.svg", "jobs-memory.svg", "array-wall.svg"} <= set(pictures)
    assert "array-channels.svg" not in pictures, "one line alone says no more than the table"
    for name, picture in pictures.items():
        assert f"({page.PLOTS}/{name})" in text
        ElementTree.fromstring(picture)


@pytest.mark.parametrize(("highest", "ticks"), [(9.0, [0, 2, 4, 6, 8, 10]), (10.0, [0, 2, 4, 6, 8, 10]), (0.3, 4)])
def test_linear_ticks_are_round_and_hold_the_highest(highest: float, ticks: object) -> None:
    found = plot.linear_ticks(highest)
    assert (len(found) if isinstance(ticks, int) else found) == ticks
    assert found[0] == 0
    assert found[-1] >= highest


@pytest.mark.parametrize(
    ("low", "high", "ticks"), [(1, 1, [1, 10]), (0.2, 30, [0.1, 1, 10, 100]), (3, 100, [1, 10, 100])]
)
def test_log_ticks_are_powers_of_ten_around_both(low: float, high: float, ticks: list[float]) -> None:
    assert plot.log_ticks(low, high) == pytest.approx(ticks)


def test_a_log_scale_leaves_zeros_out() -> None:
    lines = [plot.Line("none", "#000000", [(1, 0)]), plot.Line("some", "#111111", [(1, 0), (10, 5)])]
    picture = plot.chart("Logins", "jobs", lines, log_y=True)
    assert ">some<" in picture
    assert ">none<" not in picture
    assert picture.count("<circle") == 1


def test_tables_of_a_printed_text() -> None:
    printed = "2 cores\n\n## One\n\n| a | b |\n| --- | --- |\n| 1 | |\n\n## Two\n\n| c |\n| --- |\n| 2 |\n"
    assert figures_.tables_of(printed) == [Table("One", ["a", "b"], [["1", ""]]), Table("Two", ["c"], [["2"]])]
