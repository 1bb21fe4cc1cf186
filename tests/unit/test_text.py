"""Text for people. Nothing from a cluster has a say over the terminal of who looks."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dagster_slurm
from dagster_slurm import SSHConnectionResource
from dagster_slurm.cli import say
from dagster_slurm.doctor.finding import fine, lines_of, wrong
from dagster_slurm.resources.settings import SlurmMetric, SlurmRetryPolicy
from dagster_slurm.staging.plan import RemotePath
from dagster_slurm.text import as_text, as_written, duration_words, error_words, printable, size_words

# Turns around what is read behind it, in Unicode's own words (UAX 9).
TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(st.text())
def test_no_character_that_is_obeyed(text: str) -> None:
    shown = printable(text)
    for each in shown:
        assert each in "\t\n" or unicodedata.category(each) != "Cc"
        assert unicodedata.bidirectional(each) not in TURNS
    assert printable(shown) == shown


@given(st.text(st.characters(exclude_categories=["C"])))
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("n1\x1b]0;mine\x07", r"n1\x1b]0;mine\x07"),
        ("all is well\r\x1b[2Kgone", r"all is well\r\x1b[2Kgone"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\x9b31m", r"\x9b31m"),
        ("größer\tals\n", "größer\tals\n"),
    ],
)
def test_it_is_shown_instead(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    assert capsys.readouterr().out == f"{shown}\n"


def test_a_site_that_names_itself_so() -> None:
    assert "\x1b" not in "".join(lines_of(fine("login", "a \x1b[31mred host")))
    assert "\x1b" not in "".join(lines_of(wrong("login", "a \x1b[31mred fault", "Call \x1b[5mus")))


def files_of_the_command_line() -> list[Path]:
    return list(Path(dagster_slurm.__file__).parent.glob("cli/*.py"))


def test_commands_print_in_no_other_way() -> None:
    printing = re.compile(r"click\.(?:echo|secho)\(|\bprint\(")
    found = {path.name: len(printing.findall(path.read_text())) for path in files_of_the_command_line()}
    assert {name: count for name, count in found.items() if count} == {"__init__.py": 1}
    # The doctor's lines have colours, and are shown so before these are put in.
    painted = {path.name for path in files_of_the_command_line() if "say_painted(" in path.read_text()}
    assert painted == {"__init__.py", "set_up.py"}


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1023 << 10, "1023 KiB"),
        (200 << 20, "200 MiB"),
        (1500 << 20, "1.46 GiB"),
        (5 << 30, "5 GiB"),
        (252 << 30, "252 GiB"),
        (3 << 50, "3 PiB"),
        (5000 << 50, "5000 PiB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert size_words(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (42.4, "42 s"),
        (119, "119 s"),
        (120, "2 min"),
        (1234, "21 min"),
        (7200, "2 h"),
        (9000, "2.5 h"),
        (86400, "24 h"),
        (3 * 86400, "3 d"),
        (9.04e9, "104629.6 d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_words(seconds) == text


class Nobodys:
    """Has no `__repr__` of its own: Python's shows an address in memory."""


HOLDS_ITSELF: list[object] = ["a"]
HOLDS_ITSELF.append(HOLDS_ITSELF)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a", "'a'"),
        (3.5, "3.5"),
        (None, "None"),
        (Path("/x/a b"), "'/x/a b'"),
        ({"*.csv": PurePosixPath("/x")}, "{'*.csv': '/x'}"),
        (MappingProxyType({"a": (Path("b"),)}), "{'a': ('b',)}"),
        ([Path("a"), ["b", Path("c")]], "['a', ['b', 'c']]"),
        ({Path("a")}, "{'a'}"),
        (set(), "set()"),
        (SlurmMetric.JOB_ID, "'slurm_job_id'"),
        (RemotePath("/x"), "RemotePath(path='/x')"),
        (SlurmRetryPolicy(max_retries=5), "SlurmRetryPolicy(max_retries=5)"),
        (SlurmRetryPolicy, "SlurmRetryPolicy"),
        (Nobodys(), "Nobodys(...)"),
        (Nobodys.__init__, "object.__init__"),
        (HOLDS_ITSELF, "['a', ...]"),
    ],
)
def test_values_as_people_write_them(value: object, written: str) -> None:
    assert as_written(value) == written
    is_text = isinstance(value, str | PurePosixPath)
    assert as_text(value) == (written.strip("'") if is_text else written)


@given(
    st.recursive(st.text() | st.integers() | st.none(), lambda each: st.lists(each) | st.dictionaries(st.text(), each))
)
def test_plain_values_are_written_as_python_does(value: object) -> None:
    assert as_written(value) == repr(value)


def test_errors_of_others() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Path("/nowhere/at all").read_text()
    assert error_words(caught.value) == "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/at all'"
    assert error_words(ZeroDivisionError()) == "ZeroDivisionError"


def test_a_field_that_is_not_to_be_shown_is_not() -> None:
    resource = SSHConnectionResource(host="login", user="me", password="hidden")
    assert as_written({"ssh": resource}) == "{'ssh': SSHConnectionResource(host='login', user='me')}"
