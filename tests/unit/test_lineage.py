"""In which run a piece of work began, and where else a job of it may live: the whole table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.pipes.launch_key import Generation, Origins, origins


def run(run_id: str, *, retry: bool = False, succeeded: bool = False, finished: bool = True) -> Generation:
    return Generation(run_id, is_retry=retry, step_succeeded=succeeded, is_finished=finished)


TABLE = [
    ("a run of its own", [run("a")], Origins("a")),
    ("from failure", [run("b", retry=True), run("a")], Origins("a")),
    ("from failure, twice", [run("c", retry=True), run("b", retry=True), run("a")], Origins("a")),
    ("all steps", [run("b"), run("a")], Origins("b", ("a",))),
    ("all steps while the first still runs", [run("b"), run("a", finished=False)], Origins("b")),
    ("all steps after this one had succeeded", [run("b"), run("a", succeeded=True)], Origins("b")),
    (
        "all steps of a run from failure: the tag is inherited",
        [run("c", retry=True), run("b", retry=True, succeeded=True), run("a")],
        Origins("c", ("a",)),
    ),
    ("from failure of all steps", [run("c", retry=True), run("b"), run("a")], Origins("b", ("a",))),
    (
        "all steps of a retry: its origin is one",
        [run("d"), run("c", retry=True), run("b", retry=True), run("a")],
        Origins("d", ("a",)),
    ),
]


@pytest.mark.parametrize(("lineage", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_table(lineage: list[Generation], expected: Origins) -> None:
    assert origins(lineage) == expected


generations = st.builds(
    Generation, st.text("abc", min_size=1, max_size=3), is_retry=st.booleans(), step_succeeded=st.booleans(),
    is_finished=st.booleans(),
)  # fmt: skip


@given(st.lists(generations, min_size=1, max_size=8, unique_by=lambda each: each.run_id))
def test_no_origin_lies_behind_a_success(lineage: list[Generation]) -> None:
    found = origins(lineage)
    index = [each.run_id for each in lineage].index(found.own)
    assert not any(each.step_succeeded for each in lineage[1 : index + 1])
    assert found.own not in found.others
