"""When run directories are removed, by what Dagster has on record of their steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.plan.objects import StepFailureData, StepRetryData, StepSuccessData
from dagster._utils.error import SerializableErrorInfo
from tests.support.instances import empty_instance

from dagster_slurm.pipes import tidy
from dagster_slurm.run_directory import LaunchKey, RunDirectory

EVENTS = dg.DagsterEventType
DATA = {
    EVENTS.STEP_SUCCESS: StepSuccessData(duration_ms=1.0),
    EVENTS.STEP_FAILURE: StepFailureData(error=None, user_failure_data=None),
    EVENTS.STEP_UP_FOR_RETRY: StepRetryData(error=SerializableErrorInfo("", [], None)),
}


@dataclass
class World:
    """A run with three steps, whose events are put on record by hand; what is removed is only written down."""

    instance: dg.DagsterInstance
    run: dg.DagsterRun
    removed: list[str] = field(default_factory=list)
    tidy: tidy.Tidy = field(default_factory=tidy.Tidy)

    def owe(self, step_key: str) -> None:
        launch = LaunchKey(self.run.run_id, step_key).first_attempt("/base")
        self.tidy._owed.append(
            tidy._Removal(self.instance, self.run.run_id, step_key, None, launch, print)  # type: ignore[arg-type]
        )

    def record(self, step_key: str, kind: dg.DagsterEventType) -> None:
        name, data = self.run.job_name, DATA[kind]
        event = dg.DagsterEvent(kind.value, name, step_key=step_key, event_specific_data=data)
        self.instance.report_dagster_event(event, self.run.run_id)

    def remove(self, transport: object, launches: list[RunDirectory], tell: object) -> None:
        self.removed += [each.path.rsplit("/", 2)[-2].partition("-")[0] for each in launches]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    @dg.op
    def step() -> None: ...

    @dg.job
    def of_steps() -> None:
        step()

    with empty_instance(tmp_path) as instance:
        made = World(instance, instance.create_run_for_job(of_steps))
        monkeypatch.setattr(tidy, "_remove", made.remove)
        yield made


def test_after_the_success_alone(world: World) -> None:
    world.owe("a")
    world.owe("b")
    world.tidy.look()
    assert world.removed == []
    world.record("a", EVENTS.STEP_SUCCESS)
    world.tidy.look()
    world.tidy.look()
    assert world.removed == ["a"]
    world.record("b", EVENTS.STEP_FAILURE)
    world.tidy.look()
    world.record("b", EVENTS.STEP_SUCCESS)
    world.tidy.look()
    assert world.removed == ["a"]


def test_after_a_try_that_failed_before(world: World) -> None:
    world.record("a", EVENTS.STEP_UP_FOR_RETRY)
    world.owe("a")
    world.tidy.look()
    world.record("a", EVENTS.STEP_SUCCESS)
    world.tidy.look()
    assert world.removed == ["a"]


def test_no_end_is_read_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    ask = type(world.instance).get_records_for_run

    def count(*args: Any, **options: Any) -> Any:
        found = ask(*args, **options)
        read.extend(str(each.event_log_entry.step_key) for each in found.records)
        return found

    monkeypatch.setattr(type(world.instance), "get_records_for_run", count)
    for number in range(20):
        world.owe(f"{number}")
        world.owe("never")
        world.record(f"{number}", EVENTS.STEP_SUCCESS)
        world.tidy.look()
    assert world.removed == [str(number) for number in range(20)]
    assert sorted(read, key=int) == [str(number) for number in range(20)]
    world.tidy.look(is_last=True)
    assert len(read) == 40
