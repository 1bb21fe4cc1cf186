"""Durations, memory, TRES and times: the forms of sbatch(1) and sacct(1), each tried on sbatch 22.05.8."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.errors import InvalidQuantityError, SlurmOutputError
from dagster_slurm.slurm.quantities import (
    format_memory,
    format_time_limit,
    parse_elapsed_seconds,
    parse_memory_bytes,
    parse_memory_mib,
    parse_time_limit_seconds,
    parse_timestamp,
    parse_tres,
)

HOSTILE = st.text(max_size=30) | st.text(alphabet="0123456789:-.KMGTBnc+ ", max_size=12)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        (30, 1800),
        ("30:30", 1830),
        ("1:90", 150),
        ("00:30:00", 1800),
        ("1:2:3", 3723),
        ("100:00:00", 360000),
        ("1-2", 93600),
        ("1-30", 194400),
        ("1-2:3", 93780),
        ("1-2:3:4", 93784),
        (" 10 ", 600),
        ("0:1", 1),
        ("UNLIMITED", None),
        ("infinite", None),
        ("-1", None),
        (-1, None),
        (0, None),
        ("0", None),
        ("00:00:00", None),
        ("2h", 7200),
        ("1 hour", 3600),
        ("1 Hour", 3600),
        ("90 min", 5400),
        ("90m", 5400),
        ("30s", 30),
        ("1d", 86400),
        ("2 days", 172800),
        ("1h30m", 5400),
        ("1 day, 2 hours 30 minutes 5 secs", 86400 + 2 * 3600 + 1805),
        ("3 hrs", 10800),
    ],
)
def test_time_limit(text: str | int, seconds: int | None) -> None:
    assert parse_time_limit_seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ":30", "1:2:3:4", "1-2:3:4:5", "1 0", "1.5", "-2", "٣", "1-"),
        # In no order, twice, of nothing, or with what is no unit.
        *(
            "30m 1h",
            "1h 1h",
            "0h",
            "0 min",
            "1.5h",
            "-1h",
            "2 months",
            "2 weeks",
            "1h30",
            "h",
            "1 hour and 5 min",
            "1hm",
        ),
    ],
)
def test_time_limit_that_sbatch_refuses(text: str) -> None:
    with pytest.raises(InvalidQuantityError, match="DAYS-HOURS") as caught:
        parse_time_limit_seconds(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("value", [True, None, 1.5, [], b"30"])
def test_time_limit_of_another_type(value: object) -> None:
    with pytest.raises(InvalidQuantityError):
        parse_time_limit_seconds(value)  # type: ignore[arg-type]


@given(st.integers(min_value=1, max_value=10**9))
def test_time_limit_round_trip(seconds: int) -> None:
    assert parse_time_limit_seconds(format_time_limit(seconds)) == seconds


def test_format_time_limit() -> None:
    assert format_time_limit(None) == "UNLIMITED"
    assert format_time_limit(1800) == "00:30:00"
    assert format_time_limit(90061) == "1-01:01:01"
    with pytest.raises(InvalidQuantityError):
        format_time_limit(0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00", 0),
        ("01:02", 62),
        ("00:00.005", 0.005),
        ("01:02:03", 3723),
        ("1-01:02:03", 90123),
        ("10-00:00:00.500", 864000.5),
        ("100:01", 6001),
    ],
)
def test_elapsed(text: str, seconds: float) -> None:
    assert parse_elapsed_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("4096M", 4096),
        ("4g", 4096),
        ("4G", 4096),
        ("4GB", 4096),
        ("4gb", 4096),
        ("1MB", 1),
        ("1T", 1024**2),
        ("512K", 1),
        ("1025K", 2),
        ("0", 0),
        (" 4G", 4096),
        ("4 G", 4096),
        ("4 GB", 4096),
        ("4GiB", 4096),
        ("4 gib", 4096),
        ("512 MiB", 512),
    ],
)
def test_memory(text: str | int, mib: int) -> None:
    assert parse_memory_mib(text) == mib


@pytest.mark.parametrize(
    "text", ["", "4Gi", "4i", "4iB", "1.5G", "1P", "1B", "4 gigs", "-4", -4, "4Gx", "G", "٣G", True, 1.5]
)
def test_memory_that_sbatch_refuses(text: object) -> None:
    with pytest.raises(InvalidQuantityError, match="K, M, G, T") as caught:
        parse_memory_mib(text)  # type: ignore[arg-type]
    assert repr(text) in str(caught.value)


@given(st.integers(min_value=0, max_value=10**11))
def test_memory_round_trip(mib: int) -> None:
    assert parse_memory_mib(format_memory(mib)) == mib


def test_negative_memory_has_no_format() -> None:
    with pytest.raises(InvalidQuantityError):
        format_memory(-1)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", None),
        ("  ", None),
        ("0", 0),
        ("0n", 0),
        ("12345K", 12345 * 1024),
        ("1.5G", 3 * 1024**3 // 2),
        ("4Gn", 4 * 1024**3),
        ("4000Mc", 4000 * 1024**2),
        ("1.17M", 1226834),
        ("2P", 2 * 1024**5),
    ],
)
def test_memory_of_sacct(text: str, size: int | None) -> None:
    assert parse_memory_bytes(text) == size


def test_tres() -> None:
    tres = parse_tres("cpu=2,mem=4G,node=1,billing=2,gres/gpu=1,gres/gpu:a100=1")
    assert dict(tres) == {
        "cpu": "2",
        "mem": "4G",
        "node": "1",
        "billing": "2",
        "gres/gpu": "1",
        "gres/gpu:a100": "1",
    }
    assert parse_tres("") == {}
    with pytest.raises(SlurmOutputError):
        parse_tres("cpu")


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1)))
def test_timestamp_round_trip(moment: datetime) -> None:
    whole = moment.replace(microsecond=0)
    assert parse_timestamp(whole.strftime("%Y-%m-%dT%H:%M:%S")) == whole.replace(tzinfo=timezone.utc)


@pytest.mark.parametrize("text", ["Unknown", "None", "N/A", "", " ", "(null)"])
def test_no_timestamp(text: str) -> None:
    assert parse_timestamp(text) is None


@given(HOSTILE)
def test_any_text_gives_a_value_or_the_typed_error(text: str) -> None:
    for parse in (parse_time_limit_seconds, parse_memory_mib):
        with contextlib.suppress(InvalidQuantityError):
            parse(text)
    for read in (parse_elapsed_seconds, parse_memory_bytes, parse_tres, parse_timestamp):
        with contextlib.suppress(SlurmOutputError):
            read(text)
