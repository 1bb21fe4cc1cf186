"""The options of sbatch: spellings, managed ones, unknown ones, values."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.errors import InvalidRequestError, UnknownOptionError
from dagster_slurm.slurm.options import (
    ALIASES,
    MANAGED_OPTIONS,
    SBATCH_OPTIONS,
    canonical_option,
    checked_value,
)

VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=3)


def test_the_tables_name_only_options() -> None:
    assert set(ALIASES.values()) <= SBATCH_OPTIONS.keys()
    assert MANAGED_OPTIONS.keys() <= SBATCH_OPTIONS.keys()
    assert not ALIASES.keys() & SBATCH_OPTIONS.keys()


@pytest.mark.parametrize("name", sorted(SBATCH_OPTIONS.keys() - MANAGED_OPTIONS.keys()))
def test_every_option_in_both_spellings(name: str) -> None:
    assert canonical_option(name) == canonical_option(name.replace("-", "_")) == name


@pytest.mark.parametrize("name", sorted(MANAGED_OPTIONS))
def test_managed_options_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        canonical_option(name.replace("-", "_"))
    assert MANAGED_OPTIONS[name] in str(caught.value)
    assert not isinstance(caught.value, UnknownOptionError)


@pytest.mark.parametrize(
    ("name", "near"),
    [("contraint", "constraint"), ("partion", "partition"), ("numnodes", "num-nodes"), ("gpu", "gpus"), ("xyz", "")],
)
def test_unknown_options_come_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownOptionError) as caught:
        canonical_option(name)
    assert repr(name) in str(caught.value)
    assert near in str(caught.value.hint)
    assert str(caught.value.hint).split(".")[0].count(",") == 2


@pytest.mark.parametrize("name", ["--gres", "-p", "-"])
def test_leading_dashes_are_refused(name: str) -> None:
    with pytest.raises(UnknownOptionError, match="without dashes"):
        canonical_option(name)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("gres", "gpu:2", "gpu:2"),
        ("hold", True, True),
        ("hold", False, None),
        ("constraint", None, None),
        ("exclusive", True, True),
        ("exclusive", "user", "user"),
        ("exclusive", False, None),
        ("nice", 100, "100"),
        ("nice", True, True),
        ("mail-type", ["END", "FAIL"], "END,FAIL"),
        ("comment", "a b; $(x) ö", "a b; $(x) ö"),
    ],
)
def test_the_one_form_of_a_value(name: str, value: object, text: str | bool | None) -> None:
    assert checked_value(name, value) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gres", True),
        ("gres", False),
        ("gres", ""),
        ("gres", "  "),
        ("gres", []),
        ("gres", [""]),
        ("gres", {"gpu": 1}),
        ("gres", b"gpu"),
        ("hold", "yes"),
        ("hold", 1),
        ("comment", "a\nb"),
        ("comment", "a\0b"),
        ("comment", "a\rb"),
        ("comment", "\ud800"),
    ],
)
def test_values_that_are_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        checked_value(name, value)
    assert repr(name) in str(caught.value)


@given(st.text(max_size=20) | st.sampled_from(sorted(SBATCH_OPTIONS)), VALUES)
def test_anything_is_one_line_or_refused(name: str, value: object) -> None:
    with contextlib.suppress(InvalidRequestError):
        text = checked_value(canonical_option(name), value)
        assert text in (None, True) or {"\n", "\0"}.isdisjoint(str(text))
