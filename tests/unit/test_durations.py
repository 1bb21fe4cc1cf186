"""The record of where the time of the suite goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support import durations
from tests.support.durations import Duration

FOUND = [
    Duration("tests/a/test_x.py::test_long[a b]", "a.test_x", began=100.0, seconds=9.0, cpu_seconds=4.0),
    Duration("tests/a/test_x.py::test_short", "a.test_x", began=109.0, seconds=2.0, cpu_seconds=0.5),
    Duration("tests/b/c/test_y.py::test_by_itself", "tests/b/c/test_y.py::test_by_itself", 101.0, 30.0, 1.0),
]
RECORD = (
    "whole\ttests\t31\t6\n"
    "directory\ttests/b\t30\t1\n"
    "directory\ttests/a\t11\t4\n"
    "group\ttests/b/c/test_y.py::test_by_itself\t30\t1\n"
    "group\ta.test_x\t11\t4\n"
    "test\ttests/b/c/test_y.py::test_by_itself\t30\t1\n"
    "test\ttests/a/test_x.py::test_long[a b]\t9\t4\n"
)


def written(directory: Path, found: list[Duration]) -> Path:
    for number, each in enumerate(found):
        (directory / f"gw{number}.jsonl").write_text(json.dumps(list(vars(each).values())) + "\n")
    return directory


def test_the_record(tmp_path: Path) -> None:
    record = tmp_path / "record.tsv"
    assert durations.main(str(written(tmp_path, FOUND)), str(record)) is None
    assert record.read_text() == RECORD
    assert durations.seconds_by_group(record) == {"tests/b/c/test_y.py::test_by_itself": 30.0, "a.test_x": 11.0}


def test_one_that_takes_too_long_is_named(tmp_path: Path) -> None:
    late = Duration("tests/z.py::z", "z", began=990.0, seconds=11.0, cpu_seconds=1.0)
    said = durations.main(str(written(tmp_path, [*FOUND, late])), str(tmp_path / "record.tsv"))
    assert said == "The suite takes 901 s, and 900 s is what it may take"


def test_without_a_record_nothing_is_known(tmp_path: Path) -> None:
    assert durations.seconds_by_group(tmp_path / "none") == {}


@pytest.mark.parametrize("directory", ["assets", "cluster", "docs", "faults", "unit"])
def test_the_record_that_is_kept_knows_every_room(directory: str) -> None:
    rows = Path(__file__).parents[1].joinpath("durations.tsv").read_text(encoding="utf-8").splitlines()
    assert any(row.startswith(f"directory\ttests/{directory}\t") for row in rows)
