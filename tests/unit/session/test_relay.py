"""The allocation that follows another one: when it is queued, how, and which of several takes steps. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from dagster_slurm.resources.session import SlurmRunAllocationConfig, SlurmSessionResource
from dagster_slurm.resources.slurm import SlurmResource
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.session.leases import Lease, renewal_seconds
from dagster_slurm.session.relay import lead_seconds, successor_request, to_be_used
from dagster_slurm.slurm.request import merge
from dagster_slurm.transport import Transport


@pytest.mark.parametrize(
    ("walltime_seconds", "minutes", "seconds"),
    [
        (7200, None, 1800),
        (86400, None, 3600),
        (7200, 10, 600),
        (7200, 0.5, 30),
        (600, 60, 599),
        (60, 0.001, 1),
        (None, None, 0),
        (None, 10, 0),
    ],
)
def test_how_long_before_the_walltime(walltime_seconds: int | None, minutes: float | None, seconds: int) -> None:
    assert lead_seconds(walltime_seconds, minutes) == seconds


def test_a_successor_is_asked_for_as_the_first_was() -> None:
    request = merge({"num_nodes": 2, "cpus": 8, "time_limit": "02:00:00", "dependency": "afterok:3"})
    options = dict(successor_request(request, "12").sbatch_options())
    assert options == {**request.sbatch_options(), "dependency": "afterany:12"}


@dataclass
class Attempt:
    number: int
    over: frozenset[str] = field(default_factory=frozenset)


GONE = frozenset({""})


@pytest.mark.parametrize(
    ("known", "past", "used"),
    [
        ([], -1, None),
        ([Attempt(0)], -1, 0),
        ([Attempt(0), Attempt(1)], -1, 0),
        ([Attempt(0, GONE), Attempt(1)], -1, 1),
        ([Attempt(0), Attempt(1)], 0, 1),
        ([Attempt(0), Attempt(1, GONE)], 0, None),
        ([Attempt(4), Attempt(3)], 1, 3),
    ],
)
def test_of_several_the_oldest_takes_steps(known: list[Attempt], past: int, used: int | None) -> None:
    found = to_be_used(known, past)
    assert (found.number if found else None) == used


def lease(idle_timeout_seconds: float, relay_seconds: int = 0) -> Lease:
    directory = RunDirectory("/base", "run", "session-1", 0)
    return Lease("run", cast("Transport", None), directory, idle_timeout_seconds, True, relay_seconds)


@pytest.mark.parametrize(
    ("leases", "seconds"),
    [
        ([lease(300)], 100),
        ([lease(300), lease(1800)], 100),
        ([lease(1)], 5),
        ([lease(1800, 120)], 40),
        ([lease(1800, 120), lease(60)], 20),
    ],
)
def test_none_is_renewed_late(leases: list[Lease], seconds: float) -> None:
    assert renewal_seconds(leases) == seconds


@pytest.mark.parametrize(
    ("resource", "seconds"),
    [
        (SlurmSessionResource(), 0),
        (SlurmSessionResource(relay_lead_minutes=5), 0),
        (SlurmSessionResource(relay=True), 3600),
        (SlurmSessionResource(relay=True, relay_lead_minutes=5), 300),
        (SlurmRunAllocationConfig(relay=True, time_limit="01:00:00"), 900),
    ],
)
def test_it_is_off_unless_asked_for(resource: SlurmSessionResource | SlurmRunAllocationConfig, seconds: int) -> None:
    assert resource.spec(SlurmResource()).relay_seconds == seconds
