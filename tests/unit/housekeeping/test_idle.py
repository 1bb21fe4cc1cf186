"""What the allocation of a session held and no step of it used."""

from __future__ import annotations

import pytest
from tests.support.launches import claim_record

from dagster_slurm.cluster.description import Description
from dagster_slurm.cluster.records import AttemptRecord, LaunchRecord, Listing
from dagster_slurm.housekeeping.idle import idle_node_hours
from dagster_slurm.housekeeping.usage import lines_of, sums, text_of, usages
from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm.commands import sacct_of_user_fields
from dagster_slurm.slurm.output import AccountingRecord, parse_sacct

RUN = "5e3c7c44-9d2d-4f1c-b7bb-31cd3a8ff0a5"
WHOLE = "cpu=16,gres/gpu=4,mem=64G,node=2"


def record(*steps: tuple[str, int, str], place: str = "sessions/session-nightly-0123456789ab") -> AccountingRecord:
    name = place.rpartition("/")[2]
    told = {
        "JobID": "12",
        "State": "COMPLETED",
        "ElapsedRaw": "3600",
        "NNodes": "2",
        "AllocCPUS": "16",
        "AllocTRES": WHOLE,
        "JobName": name,
        "WorkDir": f"/b/runs/{place}/0/work",
    }
    parts = [
        {"JobID": f"12.{step}", "State": "COMPLETED", "ElapsedRaw": str(seconds), "AllocTRES": tres}
        for step, seconds, tres in steps
    ]
    fields = sacct_of_user_fields()
    text = "\n".join("|".join(each.get(name, "") for name in fields) for each in (told, *parts))
    return parse_sacct(text, fields)["12"]


@pytest.mark.parametrize(
    ("steps", "idle"),
    [
        ([], 2.0),
        ([("batch", 3600, WHOLE), ("extern", 3600, WHOLE)], 2.0),
        ([("0", 1800, "cpu=8,mem=8G,node=1")], 1.5),
        ([("0", 3600, "cpu=4,mem=48G,node=1")], 0.5),
        ([("0", 3600, "cpu=1,gres/gpu=2,mem=1G,node=1")], 1.0),
        ([("0", 900, "cpu=16,mem=64G,node=2"), ("1", 900, "cpu=16,mem=64G,node=2")], 1.0),
        # Side by side on the same CPUs.
        ([("0", 3600, "cpu=16,mem=64G,node=2"), ("1", 3600, "cpu=16,mem=64G,node=2")], 0.0),
        # Of a step that runs, older releases have no resources.
        ([("0", 3600, "")], 2.0),
    ],
)
def test_what_no_step_held(steps: list[tuple[str, int, str]], idle: float) -> None:
    assert idle_node_hours(record(*steps)) == idle


def test_a_session_has_a_row_with_what_it_idled() -> None:
    (usage,) = usages({"12": record(("0", 1800, "cpu=8,mem=8G,node=1"))}, Listing(0.0))
    assert (usage.asset, usage.run_id, usage.node_hours, usage.idle_node_hours) == (
        "session nightly",
        "sessions",
        2,
        1.5,
    )
    assert text_of(usage)[-1] == "Idle: 1.5000 node-hours that no step held"
    (heading, row) = (line.split() for line in lines_of(sums([usage], by_run=True)))
    shown = dict(zip(heading, row, strict=True))
    assert (shown["ASSET"], shown["NODE_HOURS"], shown["IDLE"]) == ("session_nightly", "2.00", "1.50")


def test_that_of_a_run_is_known_by_its_directory() -> None:
    place = "session-0123456789ab"
    told = Description(RUN, RUN, step_key="the run's session", session="--cpus-per-task=8")
    attempt = AttemptRecord(RunDirectory("/b", RUN, place), "1", told, (), (claim_record(0, "12", "12"),))
    records = {"12": record(place=f"{RUN}/{place}")}
    (usage,) = usages(records, Listing(0.0, (LaunchRecord(RUN, place, (attempt,)),)))
    assert (usage.asset, usage.idle_node_hours) == ("the run's session", 2.0)
    # Without it, it is a job like others.
    (usage,) = usages(records, Listing(0.0))
    assert usage.idle_node_hours is None
