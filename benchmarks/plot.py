"""Line charts as SVG, made by a pure function: no library, a few kilobytes each, the same text for the same figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 58, 40
INK, GRID, PAPER = "#333333", "#e4e4e4", "#ffffff"


@dataclass(frozen=True)
class Line:
    """One line: its name in the legend, its colour, and its points; those with y = 0 are left out of a log scale."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


def chart(title: str, x_title: str, lines: Sequence[Line], *, log_y: bool) -> str:
    """An SVG picture; x is on a logarithmic scale, with a tick at every x that occurs."""
    drawn = [Line(line.name, line.colour, [p for p in line.points if p[1] > 0 or not log_y]) for line in lines]
    drawn = [line for line in drawn if line.points]
    xs = sorted({x for line in drawn for x, _ in line.points})
    ys = [y for line in drawn for _, y in line.points]
    ticks = log_ticks(min(ys), max(ys)) if log_y else linear_ticks(max(ys))
    across = _Scale(xs[0], xs[-1], LEFT, WIDTH - RIGHT, log=True)
    up = _Scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP, log=log_y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' font-family="sans-serif" font-size="11" fill="{INK}" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
        f'<text x="{LEFT}" y="20" font-size="13" font-weight="bold">{escape(title)}</text>',
        *_legend(drawn),
        *(_tick_of_y(up.at(y), y) for y in ticks),
        *(_tick_of_x(across.at(x), x) for x in xs),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_title, "middle"),
        *(part for line in drawn for part in _drawn(line, across, up)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


@dataclass(frozen=True)
class _Scale:
    lowest: float
    highest: float
    start: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        """Where on the picture, in its units."""
        low, high, it = (math.log(v) if self.log else v for v in (self.lowest, self.highest, value))
        share = (it - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def linear_ticks(highest: float) -> list[float]:
    """Round values from 0 to at least the highest, four to six of them."""
    rough = max(highest, 1e-9) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * times for times in (1, 2, 2.5, 5, 10) if unit * times >= rough)
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]


def log_ticks(lowest: float, highest: float) -> list[float]:
    """Powers of ten around both, two of them at least."""
    first, last = math.floor(math.log10(lowest) + 1e-9), math.ceil(math.log10(highest) - 1e-9)
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _legend(lines: Sequence[Line]) -> list[str]:
    parts, x = [], float(LEFT)
    for line in lines:
        parts.append(f'<path d="M{x:g} 38h16" stroke="{line.colour}" stroke-width="2.5"/>')
        parts.append(_text(x + 21, 42, line.name, "start"))
        x += 40 + 6.2 * len(line.name)
    return parts


def _tick_of_y(at: float, value: float) -> str:
    line = f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>'
    return line + _text(LEFT - 6, at + 4, f"{value:,.10g}", "end")


def _tick_of_x(at: float, value: float) -> str:
    line = f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{GRID}"/>'
    return line + _text(at, HEIGHT - BOTTOM + 15, f"{value:,.10g}", "middle")


def _drawn(line: Line, across: _Scale, up: _Scale) -> list[str]:
    places = [(across.at(x), up.at(y)) for x, y in line.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)
    return [
        f'<path d="M{path}" fill="none" stroke="{line.colour}" stroke-width="2"/>',
        f'<g fill="{line.colour}">{dots}</g>',
    ]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
