"""What a step takes of its session, and what is refused before anything is sent. Pure."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource, SlurmSessionResource
from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.resources.call import work_of
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.session import SessionSpec, Share, refuse_other_shape, session_file, step_layers
from dagster_slurm.slurm.request import merge

ALLOCATION = merge({"num_nodes": 2, "cpus": 8, "mem": "16G", "gpus_per_node": 2, "time_limit": "02:00:00"})
SPEC = SessionSpec(ALLOCATION, "nightly")


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"cpus": 2, "mem": "1G"}, "0 0 1 2 1024 0 0"),
        ({"cpus": 2, "mem_per_cpu": "500M", "time_limit": "01:30"}, "0 0 1 2 1000 0 90"),
        ({"num_nodes": 2, "cpus": 1, "ntasks_per_node": 4}, "0 0 2 4 0 0 0"),
        ({"gpus_per_node": "a100:2"}, "0 0 1 1 0 2 0"),
        ({}, "0 0 1 1 0 0 0"),
    ],
)
def test_what_a_request_is_in_the_mailbox(asked: dict[str, object], line: str) -> None:
    assert Share.of(merge(asked)).line() == line


def test_elements_and_how_many_run_at_once() -> None:
    assert Share(2, 3, 4, 5, 6).line(10, 4) == "10 4 2 3 4 5 6"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"num_nodes": 3}, "asks for 3 nodes, and session 'nightly' has 2"),
        ({"cpus": 9}, "asks for 9 CPUs on a node, and session 'nightly' has 8"),
        ({"mem": "17G"}, "asks for 17408M memory on a node, and session 'nightly' has 16384M"),
        ({"gpus_per_node": 3}, "asks for 3 GPUs on a node, and session 'nightly' has 2"),
        ({"time_limit": "03:00:00"}, "asks for 03:00:00 walltime, and session 'nightly' has 02:00:00"),
    ],
)
def test_what_can_never_fit_is_refused_with_its_figure(asked: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        SPEC.refuse_step(Share.of(merge(asked)))


def test_what_fits_is_not_refused() -> None:
    SPEC.refuse_step(Share.of(ALLOCATION))
    # Where the allocation says nothing of memory or time, only Slurm knows.
    SessionSpec(merge({"cpus": 1})).refuse_step(Share(mem_mib=1 << 20, seconds=1 << 20))


@pytest.mark.parametrize(
    ("asked", "share"),
    [({"cpus": 2}, 0.25), ({"cpus": 2, "mem": "8G"}, 0.5), ({"cpus": 1, "gpus_per_node": 2}, 1.0), ({"cpus": 99}, 1.0)],
)
def test_how_much_of_its_nodes_a_step_holds(asked: dict[str, object], share: float) -> None:
    assert SPEC.share_of_node(merge(asked)) == share


def test_options_of_the_allocation_are_left_to_it() -> None:
    layers = {
        "built-in": {"cpus": 2, "requeue": True},
        "resource": {"partition": "compute", "mem": "1G"},
        "asset metadata": {"partition": "gpu", "cpus": 4},
    }
    found, left = step_layers(layers, ("built-in", "resource"))
    assert found == {"built-in": {"cpus": 2}, "resource": {"mem": "1G"}, "asset metadata": {"cpus": 4}}
    assert left == ["partition of the asset metadata"]


def test_memory_that_nobody_has_set_goes_with_the_cpus(tmp_path: Path) -> None:
    """The 4 GiB that are built in are a job's: small allocations would have room for no step."""
    payload = tmp_path / "a.sh"
    payload.write_text("true\n")

    def share(mem: str | None, **arguments: object) -> Share:
        queue = SlurmQueueConfig(partition="compute", **({"mem": mem} if mem else {}))
        session = SlurmSessionResource(num_nodes=1, cpus_per_task=4, mem="2G")
        compute = ComputeResource(mode="slurm-session", slurm=SlurmResource(queue=queue), session=session)
        return Share.of(work_of(compute, None, {"payload_path": payload, **arguments}).request)

    assert [share(None).mem_mib, share("1G").mem_mib, share(None, extra_slurm_opts={"mem": "300M"}).mem_mib] == [
        0,
        1024,
        300,
    ]


@pytest.mark.parametrize("option", ["gres", "gpus", "exclusive", "ntasks", "tres_per_task"])
def test_sizes_that_no_step_can_have_are_refused(option: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"'{option}' of the call cannot be asked for a step"):
        step_layers({"call": {option: "1"}}, ("resource",))
    # Unset is nothing.
    assert step_layers({"call": {option: None}}, ("resource",))[0] == {"call": {}}


def test_two_shapes_of_one_name() -> None:
    refuse_other_shape(SPEC, "")
    refuse_other_shape(SPEC, SPEC.shape)
    with pytest.raises(
        InvalidRequestError, match=r"^Session 'nightly' has the shape 'another', and here it has '--cpus"
    ):
        refuse_other_shape(SPEC, "another")


@given(st.text(min_size=1, max_size=64), st.text(min_size=1, max_size=64))
def test_names_have_places_of_their_own_whatever_is_in_them(one: str, other: str) -> None:
    first, second = (SessionSpec(ALLOCATION, name).first_allocation("/base", "run") for name in (one, other))
    assert (first == second) == (one == other)
    assert RunDirectory.from_relative("/base", first.relative) == first
    assert first.run == "sessions"


def test_unnamed_ones_are_of_a_run_and_a_shape() -> None:
    plain = SessionSpec(ALLOCATION)
    places = {
        spec.first_allocation("/base", run)
        for spec in (plain, SessionSpec(ALLOCATION, max_concurrent_jobs=1))
        for run in ("one", "two")
    }
    assert len(places) == 4


def test_the_file_of_a_step() -> None:
    directory = RunDirectory("/base", "run", "session-1", 3)
    assert session_file(directory, "12", Share().line()) == b"run/session-1/3 12\n0 0 1 1 0 0 0\n"


def test_an_allocation_does_not_outlive_a_node() -> None:
    """With --no-kill, Slurm calls a step that has lost one a success."""
    slurm = SlurmResource(queue=SlurmQueueConfig(extra_slurm_opts={"no_kill": True, "licenses": "solver"}))
    spec = SlurmSessionResource().spec(slurm)
    assert {"no-kill", "licenses"} & set(spec.request.sbatch_options()) == {"licenses"}
    for asked in ("--no-kill", "-k", "#SBATCH --no-kill"):
        with pytest.raises(InvalidRequestError, match="A session's allocation cannot have --no-kill"):
            SlurmSessionResource(extra_sbatch_directives=[asked]).spec(slurm)
    assert "no-kill" not in SlurmSessionResource(extra_sbatch_directives=["--no-kill=off"]).spec(slurm).shape
