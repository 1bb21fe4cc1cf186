"""The plot of what a job has used."""

from __future__ import annotations

import base64
import io
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from dagster_slurm.cluster.description import EndMark
from dagster_slurm.job.events import Ended
from dagster_slurm.pipes import usage
from dagster_slurm.pipes.partition_results import ADVICE, USAGE_PLOT, SlurmOutcome, has_lasted, outcome_metadata
from dagster_slurm.pipes.usage import Panel, drawn, panels, usage_metadata
from dagster_slurm.resources.settings import metadata_of
from dagster_slurm.slurm.efficiency import Figures, UsageSample, parse_samples
from dagster_slurm.slurm.request import JobRequest, merge
from dagster_slurm.slurm.states import JobState

# Of a week: as many as there are.
WEEK = tuple(UsageSample(1.05**n, 1.9 * 1.05**n, 100 + n * n, n % 100, 5 * n) for n in range(1, 270))
TEN_SECONDS = parse_samples("20:150:90,40:350:100,100:950:120")


def outcome(*, mem: str = "200M", state: JobState = JobState.COMPLETED, **options: object) -> SlurmOutcome:
    figures = Figures(started_at=1000.0, nodes=1, cpus=2, mem_mib=200, cpu_seconds=9.5, killed=0, samples=TEN_SECONDS)
    end = EndMark("5", 0, 0, 1015.5, {"stdout": 0, "stderr": 0, "messages": 0}, figures=figures)
    request = merge({"mem": mem, **options})
    return SlurmOutcome("5", Ended(state, None, end, "n1"), request, cast(Any, SimpleNamespace()))


STEP = cast(Any, SimpleNamespace(is_asset=False, asset_keys=(), log=SimpleNamespace(warning=print)))


def test_panels() -> None:
    assert panels(TEN_SECONDS, cpus=2, mem_mib=200) == (
        Panel("CPUs", ((2.0, 0.75), (4.0, 1.0), (10.0, 1.0)), 2),
        Panel("Memory, MiB", ((2.0, 90.0), (4.0, 100.0), (10.0, 120.0)), 200.0),
    )
    titles = [panel.title for panel in panels(WEEK, cpus=2, mem_mib=1 << 20, has_gpus=True)]
    assert titles == ["CPUs", "Memory, GiB", "GPU, %", "GPU memory, GiB"]


@pytest.mark.parametrize("samples", [(), WEEK[:1], parse_samples("20:-:-,90:-:-")])
def test_what_there_is_nothing_to_draw_of(samples: tuple[UsageSample, ...]) -> None:
    assert panels(samples, cpus=2, mem_mib=200) == ()


@pytest.mark.parametrize("samples", [TEN_SECONDS, WEEK], ids=["ten seconds", "a week"])
def test_it_is_a_small_picture(samples: tuple[UsageSample, ...]) -> None:
    text = drawn(panels(samples, cpus=2, mem_mib=65536, has_gpus=samples is WEEK))
    assert text.startswith("![") and len(text) < 25_000
    data = base64.b64decode(text.partition("base64,")[2].removesuffix(")"))
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "PNG" and picture.size[0] == 640


def test_a_job_has_it_as_its_last_metadata() -> None:
    found = usage_metadata(STEP, outcome(), outcome_metadata)
    assert list(found) == [USAGE_PLOT]
    assert found[USAGE_PLOT].value.startswith("![")


def test_a_job_that_has_failed_has_it_too() -> None:
    assert list(usage_metadata(STEP, outcome(state=JobState.FAILED), outcome_metadata)) == [USAGE_PLOT]


@pytest.mark.parametrize(
    ("wanted", "expected"), [(None, {USAGE_PLOT}), (["slurm_usage_plot"], {USAGE_PLOT}), (["slurm_job_id"], set())]
)
def test_it_can_be_chosen(wanted: list[str] | None, expected: set[str]) -> None:
    assert usage_metadata(STEP, outcome(), metadata_of(wanted, None)).keys() == expected


def test_who_makes_the_metadata_makes_all_of_it() -> None:
    assert usage_metadata(STEP, outcome(), lambda job: {}) == {}


def test_without_the_extra_there_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("dagster_slurm.pipes.usage.find_spec", lambda name: None)
    assert usage_metadata(STEP, outcome(), outcome_metadata) == {}
    assert capsys.readouterr().out == ""


def test_what_matplotlib_cannot_do_fails_no_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert usage_metadata(STEP, outcome(), outcome_metadata) == {}
    assert "could not be drawn" in capsys.readouterr().out


LONG = {"elapsed_seconds": 600.0, "max_cpus_used": 1.0, "max_memory_mb": 1000.0}


@pytest.mark.parametrize(
    ("figures", "asks"),
    [(LONG, True), ({**LONG, "elapsed_seconds": 5.0}, False), ({**LONG, "max_memory_mb": 12000.0}, False), ({}, False)],
)
def test_earlier_runs_are_asked_for_where_there_is_something_to_say(
    monkeypatch: pytest.MonkeyPatch, figures: dict[str, float], asks: bool
) -> None:
    asked: list[str] = []

    def past(instance: object, asset_key: str) -> list[usage.Use]:
        asked.append(asset_key)
        return [usage.Use.of(LONG)] * 11

    monkeypatch.setattr(usage, "past_uses", past)
    monkeypatch.setattr(usage, "outcome_metadata", lambda outcome: figures)
    step = cast(Any, SimpleNamespace(is_asset=True, asset_keys=("a", "b"), instance=None))
    found = usage_metadata(step, outcome(mem="16G"), metadata_of([ADVICE], None))
    said = 'Used at most 1.0 of 16 GiB in the last 12 runs: mem="2G" would do'
    assert (asked, found) == (["a"], {ADVICE: said}) if asks else ([], {})


def test_of_nothing_asked_for_the_allocation_counts() -> None:
    job = outcome()
    bare = SlurmOutcome(job.job_id, job.ended, JobRequest(), job.connection)
    assert list(usage_metadata(STEP, bare, outcome_metadata)) == [USAGE_PLOT]


@pytest.mark.parametrize(("started_at", "expected"), [(1000.0, True), (1001.0, False), (None, False)])
def test_what_is_short_is_not_looked_at(started_at: float | None, expected: bool) -> None:
    ended = outcome().ended
    assert ended.end_mark is not None
    figures = replace(ended.end_mark.figures, started_at=started_at)
    assert has_lasted(replace(ended, end_mark=replace(ended.end_mark, figures=figures))) is expected
    assert not has_lasted(replace(ended, end_mark=None))
