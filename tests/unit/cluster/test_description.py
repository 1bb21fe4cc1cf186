"""`launch.json`, of this release, of older ones, and damaged."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.cluster.description import DIGESTS, Description
from dagster_slurm.process_identity import ProcessIdentity

PROCESS = ProcessIdentity("host", "boot", "pid:[4026531836]", 7, "123")
TEXTS = st.text(max_size=8)
DESCRIPTIONS = st.builds(
    Description,
    *[TEXTS] * 4,
    st.lists(TEXTS, max_size=3).map(tuple),
    TEXTS,
    st.lists(TEXTS, max_size=3).map(tuple),
    st.sampled_from([None, PROCESS]),
    TEXTS,
    st.lists(TEXTS, max_size=3).map(tuple),
    st.lists(st.lists(st.dictionaries(TEXTS, TEXTS, max_size=2), max_size=2).map(tuple), max_size=2).map(tuple),
    st.dictionaries(st.sampled_from(list(DIGESTS)), TEXTS),
)
# As commit 251ced3 wrote it.
OLD = (
    '{"protocol": 1, "origin_run_id": "8d9f", "run_id": "9e0a", "job": "__ASSET_JOB", "step_key": "tides", '
    '"partition_keys": ["2026-01-01"], "call": "0", "assets": ["sea/tides"], "process": {"boot_id": "boot", '
    '"host": "host", "pid": 7, "pid_namespace": "pid:[4026531836]", "started": "123"}, "environment_path": null, '
    '"payload": "0123456789abcdef", "options": "aaaaaaaaaaaa", "environment": "the cluster\'s own Python"}'
)


@given(DESCRIPTIONS)
def test_what_is_written_is_read(description: Description) -> None:
    text = description.to_json()
    assert "\n" not in text
    assert Description.from_json(text) == description
    assert Description.from_json(f"{text}\n") == description


def test_an_older_release_s() -> None:
    found = Description.from_json(OLD)
    assert found == Description(
        "8d9f",
        "9e0a",
        "__ASSET_JOB",
        "tides",
        ("2026-01-01",),
        "0",
        ("sea/tides",),
        PROCESS,
        digests={
            "payload": "0123456789abcdef",
            "options": "aaaaaaaaaaaa",
            "environment": "the cluster's own Python",
        },
    )
    # A release of that time reads the same in what this one writes.
    assert json.loads(found.to_json()) == json.loads(OLD)


@pytest.mark.parametrize("cut", range(0, len(OLD), 7))
def test_half_written(cut: int) -> None:
    assert Description.from_json(OLD[:cut]) == Description()


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"x"', "\ufffd", pytest.param("[" * 5000, id="deep")])
def test_no_description(text: str) -> None:
    assert Description.from_json(text) == Description()


@given(
    st.dictionaries(
        st.sampled_from([*json.loads(OLD), "elements"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | TEXTS,
            lambda each: st.lists(each) | st.dictionaries(TEXTS, each),
        ),
    )
)
def test_of_another_kind_than_it_should_be(values: dict[str, object]) -> None:
    found = Description.from_json(json.dumps(values))
    assert Description.from_json(found.to_json()) == found
    for name in ("run_id", "step_key", "environment_path"):
        assert getattr(found, name) == (values.get(name) if isinstance(values.get(name), str) else "")


def test_a_list_is_read_as_far_as_it_can_be_but_where_places_have_a_meaning() -> None:
    found = Description.from_json('{"partition_keys": [1, "b"], "elements": [1, "b"], "assets": "x"}')
    assert (found.partition_keys, found.elements, found.assets) == (("b",), (), ())
