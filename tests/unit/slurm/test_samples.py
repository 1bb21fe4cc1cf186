"""The samples of an end line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.cluster.description import EndMark, parse_marks
from dagster_slurm.slurm.efficiency import Figures, Span, UsageSample, cpu_spans, parse_samples, sample_metrics, series

END = "end 5 0 0 1010.5 0 0 0 started=1000.0 nodes=1 cpus=2 cpu=9000000 killed=0 usage={}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("20:150:5", (UsageSample(2.0, 1.5, 5),)),
        ("20:-:5,37:350:-", (UsageSample(2.0, None, 5), UsageSample(3.7, 3.5))),
        ("20:1:5:90:1000,37:2:5:-:1000", (UsageSample(2.0, 0.01, 5, 90, 1000), UsageSample(3.7, 0.02, 5, None, 1000))),
        # A second start under the same number.
        ("20:150:5,99:900:5,20:10:7", (UsageSample(2.0, 0.1, 7),)),
        # Cut off, or of another form.
        ("20:150:5,37:", (UsageSample(2.0, 1.5, 5),)),
        ("20:150:5,x:1:1,-5:1:1,1:2,1:2:3:4,1:2:3:4:5:6", (UsageSample(2.0, 1.5, 5),)),
        ("1" * 40, ()),
        (",".join(["20:150:5"] * 10_000), ()),
    ],
)
def test_their_form(text: str, expected: tuple[UsageSample, ...]) -> None:
    assert parse_samples(text) == expected


@given(st.text() | st.from_regex(r"[0-9:,-]{0,200}", fullmatch=True))
def test_any_text_has_some_or_none(text: str) -> None:
    samples = parse_samples(text)
    times = [each.at_seconds for each in samples]
    assert times == sorted(set(times))
    assert all(span.cpus >= 0 and span.end_seconds > span.begin_seconds for span in cpu_spans(samples))
    sample_metrics(samples)


def test_an_end_line_with_them() -> None:
    (end,), rest = parse_marks(END.format("20:150:5,60:550:9"))
    assert isinstance(end, EndMark) and end.is_proof and rest == ""
    assert end.figures.samples == (UsageSample(2.0, 1.5, 5), UsageSample(6.0, 5.5, 9))
    at_end = series(end.figures, ended_at=end.at_epoch_seconds)
    assert at_end == (*end.figures.samples, UsageSample(10.5, 9.0))


def test_an_end_line_that_is_cut_off_has_all_the_others() -> None:
    (end,), _ = parse_marks(END.format("20:150:5,60:5").replace("\n", "") + "\n")
    assert isinstance(end, EndMark) and end.is_proof
    assert end.figures.cpu_seconds == 9.0


@pytest.mark.parametrize("nodes", [None, 2])
def test_of_several_nodes_one_tells_nothing(nodes: int | None) -> None:
    assert series(Figures(nodes=nodes, samples=(UsageSample(2.0, 1.0, 5),)), ended_at=5.0) == ()


def test_how_many_cpus_were_busy() -> None:
    samples = parse_samples("2:40:1,7:60:1,20:200:5,30:190:5,80:1190:5")
    assert cpu_spans(samples) == (Span(0.0, 2.0, 1.0), Span(2.0, 3.0, 0.0), Span(3.0, 8.0, 2.0))
    assert sample_metrics(samples) == {"max_cpus_used": 2.0}


def test_gpus_count_for_the_time_since_the_sample_before() -> None:
    samples = parse_samples("20:-:1:100:1000,40:-:1:-:3000,100:-:1:20:2000")
    assert sample_metrics(samples) == {"gpu_utilization_pct": 40.0, "max_gpu_memory_mb": 3000.0}
