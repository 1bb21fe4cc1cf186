"""What a materialisation says of its job's use besides figures: a plot, and what the next job could ask for.

The plot is drawn by matplotlib, where `plots` is installed.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dagster import AssetKey, AssetRecordsFilter, DagsterInstance, MetadataValue

from dagster_slurm.pipes.partition_results import (
    ADVICE,
    USAGE_PLOT,
    MetadataOf,
    SlurmOutcome,
    outcome_metadata,
    samples_of,
)
from dagster_slurm.pipes.step import Step
from dagster_slurm.slurm.advice import Use, advice, is_worth_asking
from dagster_slurm.slurm.efficiency import UsageSample, cpu_spans
from dagster_slurm.slurm.request import JobRequest
from dagster_slurm.text import error_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 100
_WIDTH_INCHES, _PANEL_INCHES, _MARGIN_INCHES = 6.4, 1.25, 0.45
_USED, _ASKED = "#2b6cb0", "#c05621"
_COLOURS = 32
# Its caches of fonts and glyphs are the process's.
_lock = threading.Lock()


@dataclass(frozen=True)
class Panel:
    """One figure as time goes on.

    Args:
        title: What, with its unit.
        points: Moments in seconds and values; a value holds from the moment before.
        asked: What was asked for; None for nothing that is known.
    """

    title: str
    points: tuple[tuple[float, float], ...]
    asked: float | None = None


def panels(
    samples: Sequence[UsageSample], *, cpus: int | None, mem_mib: int | None, has_gpus: bool = False
) -> tuple[Panel, ...]:
    """What there is to draw; nothing for a short job, and for one whose use is not known.

    Args:
        samples: What it used.
        cpus: The CPUs that were asked for.
        mem_mib: The memory.
        has_gpus: Whether GPUs were.
    """
    if len(samples) < 2:
        return ()
    unit, size = (
        ("GiB", 1024) if max([mem_mib or 0, *(each.memory_mib or 0 for each in samples)]) >= 2048 else ("MiB", 1)
    )
    memory = _points((each.at_seconds, each.memory_mib) for each in samples)
    found = [
        Panel("CPUs", tuple((span.end_seconds, span.cpus) for span in cpu_spans(samples)), cpus),
        Panel(f"Memory, {unit}", tuple((at, mib / size) for at, mib in memory), mem_mib / size if mem_mib else None),
    ]
    if has_gpus:
        found.append(Panel("GPU, %", _points((each.at_seconds, each.gpu_pct) for each in samples), 100.0))
        gpu_memory = _points((each.at_seconds, each.gpu_memory_mib) for each in samples)
        found.append(Panel("GPU memory, GiB", tuple((at, mib / 1024) for at, mib in gpu_memory)))
    return tuple(panel for panel in found if len(panel.points) > 1)


def _points(pairs: Iterable[tuple[float, int | None]]) -> tuple[tuple[float, float], ...]:
    return tuple((at, float(value)) for at, value in pairs if value is not None)


def can_draw() -> bool:
    """Whether the extra `plots` is installed."""
    return find_spec("matplotlib") is not None


def drawn(shown: Sequence[Panel]) -> str:
    """The panels as a PNG in Markdown, which needs no file beside it: some 6 kB of text.

    Raises:
        ImportError: matplotlib cannot be imported.
    """
    with _lock:
        image = base64.b64encode(_png(_figure(shown))).decode("ascii")
    return f"![Use against what was asked](data:image/png;base64,{image})"


def _figure(shown: Sequence[Panel]) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and half a second

    height = _MARGIN_INCHES + _PANEL_INCHES * len(shown)
    figure = Figure(figsize=(_WIDTH_INCHES, height))
    # A layout that fits itself costs twice the drawing.
    edges = {"bottom": 0.45 / height, "top": 1 - 0.3 / height, "hspace": 0.35}
    figure.subplots_adjust(left=0.07, right=0.98, **edges)
    unit, size = _unit_of(max(at for panel in shown for at, _ in panel.points))
    rows = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(rows, shown, strict=True):
        times = [0.0, *(at / size for at, _ in panel.points)]
        values = [value for _, value in panel.points]
        axes.stairs(values, times, fill=True, color=_USED, alpha=0.35)
        axes.stairs(values, times, color=_USED, linewidth=1.5, label="used")
        if panel.asked is not None:
            axes.axhline(panel.asked, color=_ASKED, linestyle="--", linewidth=1.2, label="asked")
        axes.set_ylim(0, 1.1 * max([*values, panel.asked or 0.0, 0.01]))
        axes.set_xlim(0, times[-1])
        axes.set_title(panel.title, fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
    rows[0].legend(fontsize=8, loc="upper right", ncols=2, frameon=False, bbox_to_anchor=(1, 1.3))
    rows[-1].set_xlabel(f"time since the start, {unit}", fontsize=8)
    return figure


def _unit_of(seconds: float) -> tuple[str, float]:
    for name, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return name, size
    return "seconds", 1.0


def _png(figure: Figure) -> bytes:
    """With few colours, a third of the size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - as above
    from PIL import Image  # noqa: PLC0415 - matplotlib brings it

    figure.set_dpi(_DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    size = canvas.get_width_height()
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    picture = Image.frombuffer("RGBA", size, pixels, "raw", "RGBA", 0, 1).convert("RGB")
    data = io.BytesIO()
    picture.quantize(_COLOURS).save(data, "PNG", optimize=True)
    return data.getvalue()


PAST_RUNS = 11
"""With the one that has ended, a dozen."""


def usage_metadata(step: Step, outcome: SlurmOutcome, metadata_of: MetadataOf) -> dict[str, Any]:
    """The advice and the plot of a job of its own, where there is something to say or to draw.

    Args:
        step: Its step.
        outcome: Its end.
        metadata_of: What the materialisation is to have; a function of users has all of it.
    """
    found: dict[str, Any] = {}
    if outcome.ended.is_success and _is_wanted(metadata_of, ADVICE):
        said = _advice(step, outcome.request, Use.of(outcome_metadata(outcome)))
        found |= {ADVICE: said} if said else {}
    if _is_wanted(metadata_of, USAGE_PLOT):
        found |= _plot(step, outcome)
    return found


def _is_wanted(metadata_of: MetadataOf, name: str) -> bool:
    wanted = None if metadata_of is outcome_metadata else getattr(metadata_of, "wanted", ())
    return wanted is None or name in wanted


def _advice(step: Step, request: JobRequest, use: Use) -> str:
    """Dagster's storage is asked once, and only where the runs before could make something of it."""
    if not step.is_asset or not step.asset_keys or not is_worth_asking(request, use):
        return ""
    return advice(request, [use, *past_uses(step.instance, step.asset_keys[0])])


def past_uses(instance: DagsterInstance, asset_key: AssetKey) -> list[Use]:
    """What the last jobs for an asset have used, as their materialisations tell."""
    found = instance.fetch_materializations(AssetRecordsFilter(asset_key=asset_key), limit=PAST_RUNS)
    made = (record.asset_materialization for record in found.records)
    return [Use.of({name: value.value for name, value in each.metadata.items()}) for each in made if each]


def _plot(step: Step, outcome: SlurmOutcome) -> dict[str, Any]:
    if not can_draw():
        return {}
    request, end = outcome.request, outcome.ended.end_mark
    figures = end.figures if end else None
    cpus = (figures.cpus if figures else None) or request.cpus_per_task
    mem_mib = request.mem_mib or (figures.mem_mib if figures else None)
    shown = panels(samples_of(outcome.ended), cpus=cpus, mem_mib=mem_mib, has_gpus=request.has_gpus)
    if not shown:
        return {}
    try:
        return {USAGE_PLOT: MetadataValue.md(drawn(shown))}
    except Exception as error:  # noqa: BLE001 - the job has ended, whatever matplotlib makes of it
        step.log.warning(f"The plot of what the job has used could not be drawn: {error_words(error)}")
        return {}
