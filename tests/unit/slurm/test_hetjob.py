"""Heterogeneous jobs as text. The lines of Slurm are those of 22.05.8."""

from __future__ import annotations

import pytest

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.run_directory import JobHandle, RunDirectory, part_of_job
from dagster_slurm.slurm import arrays
from dagster_slurm.slurm.commands import sacct_fields
from dagster_slurm.slurm.hetjob import parse_partitions, refuse_too_many, refuse_whole, render_hetjob
from dagster_slurm.slurm.output import parse_sacct, parse_squeue
from dagster_slurm.slurm.request import JobRequest, directive, merge
from dagster_slurm.slurm.states import JobState

GOLDEN = """\
#!/bin/bash
#SBATCH --cpus-per-task=1
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/het""job/slurm.log
#SBATCH --partition=compute
#SBATCH --signal=B:USR1@60
#SBATCH hetjob
#SBATCH --cpus-per-task=2
#SBATCH --mem=400M
#SBATCH --nodes=2
#SBATCH --partition=compute
#SBATCH hetjob
#SBATCH --gpus-per-node=1
#SBATCH --nodes=1
#SBATCH --partition=gpu

true
"""
COMMON = {"partition": "compute", "signal_before_timeout": 60}


def test_golden_script() -> None:
    asked = [
        merge(COMMON, {"cpus": 1}),
        merge(COMMON, {"num_nodes": 2, "cpus": 2, "mem": "400M"}),
        merge({"partition": "gpu", "gpus_per_node": 1}),
    ]
    assert render_hetjob(asked, output_path="/runs/hetjob/slurm.log", body="true\n") == GOLDEN


@pytest.mark.parametrize("value", ["/a/hetjob/b", "a hetjob b", "packjob"])
def test_no_value_separates_components(value: str) -> None:
    """Releases have taken the word for a separator wherever it stood in a directive."""
    line = directive("comment", value)
    assert "hetjob" not in line and "packjob" not in line
    # Two texts in quotes, or without, that follow each other are one for the parser (tried with 22.05.8).
    assert line.replace('""', "").removeprefix("#SBATCH --comment=").strip('"') == value


@pytest.mark.parametrize(
    "options",
    [{"dependency": "afterok:1"}, {"signal_before_timeout": 60}, {"max_queue_hours": 2}, {"mail-user": "me"}],
    ids=str,
)
def test_what_holds_for_the_job_is_refused_for_a_component(options: dict[str, object]) -> None:
    (name,) = options
    with pytest.raises(InvalidRequestError, match=f"'b' asks for '{name}', which holds for a heterogeneous job"):
        refuse_whole({"mem": "1G", **options}, "The component 'b'")
    refuse_whole({name: None}, "The component 'b'")


@pytest.mark.parametrize("name", ["job_name", "output", "error", "chdir", "export", "open_mode", "array"])
def test_what_dagster_slurm_sets_is_refused_as_anywhere(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=name.replace("_", ".")):
        refuse_whole({name: "x"}, "The component 'b'")


def test_components_that_differ_in_what_holds_for_the_job_are_refused() -> None:
    asked = [merge(COMMON), merge({**COMMON, "signal_before_timeout": 30})]
    with pytest.raises(InvalidRequestError, match="differ in 'signal': 'B:USR1@60' and 'B:USR1@30'"):
        render_hetjob(asked, output_path="/x", body="true")


@pytest.mark.parametrize(
    ("partitions", "is_refused"),
    [
        ({"compute": 4, "gpu": 1}, False),
        ({"compute": 3, "gpu": 1}, True),
        ({"compute": 4, "gpu": 0}, True),
        ({}, False),
    ],
    ids=str,
)
def test_more_nodes_than_a_partition_has(partitions: dict[str, int], is_refused: bool) -> None:
    asked = {
        "a": JobRequest(),
        "b": JobRequest(nodes=2),
        "c": JobRequest(partition="compute"),
        "d": JobRequest(partition="gpu"),
    }
    if not is_refused:
        refuse_too_many(asked, partitions, "compute")
        return
    with pytest.raises(InvalidRequestError, match=r"ask for \d nodes? of the partition '(compute|gpu)', which has \d"):
        refuse_too_many(asked, partitions, "compute")


def test_partitions_of_sinfo() -> None:
    assert parse_partitions("compute*|4\ndebug|2\na notice\ncompute*|1\n") == ({"compute": 5, "debug": 2}, "compute")


# -- ids


@pytest.mark.parametrize(
    ("components", "element", "job_id"), [(0, 1, "12_1"), (1, 0, "12"), (3, 0, "12+0"), (3, 2, "12+2")]
)
def test_the_id_of_an_element(components: int, element: int, job_id: str) -> None:
    assert part_of_job("12", element, components) == job_id
    handle = JobHandle(RunDirectory("/b", "r", "k"), "12", 1, components).of(element)
    assert (handle.job_id, handle.directory.place, handle.generation) == (
        job_id,
        f"/b/runs/r/k/0/elements/{element}",
        1,
    )


LINES = """\
21|21|N/A|RUNNING|2026-11-30T12:15:54|2026-11-30T12:15:55|None|n1|work-1|/home/me
22|22|N/A|RUNNING|2026-11-30T12:15:54|2026-11-30T12:15:55|None|n[2-3]|work-1|/home/me
30|30|N/A|RUNNING|2026-11-30T12:15:54|2026-11-30T12:15:55|None|n4|work-1|/home/me
23|23|N/A|PENDING|2026-11-30T12:15:54|N/A|Priority||other|/home/me
"""


def test_components_in_the_queue_have_numbers_that_follow_each_other() -> None:
    found = arrays.entries_of(parse_squeue(LINES), ["21", "21+0", "21+1", "21+2", "40+1"])
    # Under the number that the third would have stands another's job: the leader speaks for it.
    assert {job_id: entry.job_id for job_id, entry in found.items()} == {
        "21": "21",
        "21+0": "21",
        "21+1": "22",
        "21+2": "21",
    }


def test_the_accounting_of_the_whole_is_that_of_the_part_that_has_failed() -> None:
    fields = sacct_fields(tres=False)
    given = [{"JobID": "21+0", "State": "COMPLETED"}, {"JobID": "21+1", "State": "FAILED"}]
    text = "\n".join("|".join(each.get(name, "") for name in fields) for each in given)
    found = arrays.records_of(parse_sacct(text, fields), ["21"])
    assert {job_id: record.state for job_id, record in found.items()} == {
        "21+0": JobState.COMPLETED,
        "21+1": JobState.FAILED,
        "21": JobState.FAILED,
    }
