"""Small line charts as SVG that takes its colours from the page, to suit light and dark themes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 6  # that the page defines for lines
_ROUNDS = ("", " dashed", " dotted")  # how the lines differ when the colours come again
_WIDTH, _HEIGHT = 460, 234
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 40


@dataclass(frozen=True, slots=True)
class Series:
    """A named line through (x,y) points; the point at x = `kept` is ringed.

    `colour` counts from 0; after the last colour of the page they come again, dashed, then dotted. None is the ink's.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int | None = 0
    kept: float | None = None


@dataclass(frozen=True, slots=True)
class Band:
    """A shaded stretch of the x axis, with `label` at its top if there is room; `name` is the tooltip."""

    start: float
    end: float
    name: str
    label: str = ""
    strong: bool = False


def line_chart(title: str, series: Sequence[Series], *, bands: Sequence[Band] = (), x_label: str = "epoch") -> str:
    """A `<figure>` with an SVG chart; each point's tooltip has its value. Empty text if there are no points."""
    points = [point for line in series for point in line.points]
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low_x, high_x = min(xs), max(max(xs), min(xs) + 1)
    ticks = _ticks(min(ys), max(ys))
    low_y, high_y = min(ticks[0], *ys), max(ticks[-1], *ys)

    def x_of(value: float) -> float:
        return _LEFT + (value - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _RIGHT)

    def y_of(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low_y) / ((high_y - low_y) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_band(band, x_of(max(band.start, low_x)), x_of(min(band.end, high_x))) for band in bands]
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(low_x, high_x, whole=True):
        if low_x <= tick <= high_x:
            parts.append(f'<text x="{x_of(tick):.1f}" y="{_HEIGHT - 24}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{escape(x_label)}</text>')
    for line in series:
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        style = _style(line)
        parts.append(f'<polyline class="{style}" points="{path}"/>')
        parts += [
            f'<circle class="{style}{" kept" if x == line.kept else ""}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" '
            f'r="{5 if x == line.kept else 3}"><title>{escape(line.name)}, {x_label} {x:g}: {y:.4g}</title></circle>'
            for x, y in line.points
        ]
    legend = "" if len(series) == 1 else " ".join(map(_key, series))  # which wraps at the spaces
    return (
        f'<figure class="chart"><figcaption>{escape(title)} <span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)} by {x_label}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _style(series: Series) -> str:
    """The classes of a line and its points, which tell it from all others of its chart."""
    if series.colour is None:
        return "ink"
    again, colour = divmod(series.colour, COLOURS)
    return f"c{colour}{_ROUNDS[again % len(_ROUNDS)]}"


def _key(series: Series) -> str:
    """A line's name in the legend, after a piece of the line."""
    style = _style(series)
    piece = (
        f'<svg class="key" viewBox="0 0 30 10" aria-hidden="true"><polyline class="{style}" points="0,5 30,5"/></svg>'
    )
    return f'<span class="{style.partition(" ")[0]}">{piece}{escape(series.name)}</span>'


def _band(band: Band, left: float, right: float) -> str:
    width, height = max(0.0, right - left), _HEIGHT - _TOP - _BOTTOM
    kind = "band strong" if band.strong else "band"
    drawn = f'<rect class="{kind}" x="{left:.1f}" y="{_TOP}" width="{width:.1f}" height="{height}">'
    drawn += f"<title>{escape(band.name)}</title></rect>"
    if width > 6.5 * len(band.label):
        drawn += f'<text x="{left + 4:.1f}" y="{_TOP + 11}">{escape(band.label)}</text>'
    return drawn


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Evenly spaced round numbers, at most seven, that span low … high."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 3))
    step *= next((m for m in (1, 2, 5, 10) if span / (step * m) <= 5), 10)
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * i, 10) for i in range(first, last + 1)]
