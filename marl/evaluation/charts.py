"""Charts as inline SVG, coloured by the page's style sheet, so that they follow its light and dark forms."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from marl.errors import UserError, nearest
from marl.evaluation.statistics import Array, estimate

_WIDTH, _HEIGHT = 520, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 10, 44

#: Points drawn of a line or band; a chart has no more pixels than that.
_POINTS = 300

#: The style sheet of ``report`` defines this many colours for lines.
COLOURS = 6


@dataclass(frozen=True)
class Curve:
    """One chart.

    runs: legend -> its seeds, each (x, y) of float64 ``[n]`` with x increasing. Several seeds are drawn thin, their
        mean thick, over a band that is the mean's 95 % bootstrap interval over seeds.
    levels: legend -> height of a horizontal line, such as a baseline's figure.
    """

    title: str
    x_label: str
    y_label: str
    runs: Mapping[str, Sequence[tuple[Array, Array]]]
    levels: Mapping[str, float] = field(default_factory=dict)


def curve_from_csv(
    title: str,
    runs: Mapping[str, Sequence[Path]],
    y: str,
    *,
    x: str = "agent_steps",
    x_label: str = "agent-steps",
    y_label: str | None = None,
    levels: Mapping[str, float] | None = None,
) -> Curve:
    """A curve of columns ``x`` and ``y`` of ``metrics.csv`` files (legend -> one file per seed).

    Rows in which either is empty or not finite are left out. Raises ``UserError`` if a file lacks a column.
    """
    lines = {legend: [_columns(path, x, y) for path in paths] for legend, paths in runs.items()}
    return Curve(title, x_label, y if y_label is None else y_label, lines, levels or {})


def svg(curve: Curve) -> str:
    """The chart and its legend, as an HTML ``<figure>``."""
    lines = {legend: [_drawable(*seed) for seed in seeds] for legend, seeds in curve.runs.items()}
    lines = {legend: [seed for seed in seeds if len(seed[0])] for legend, seeds in lines.items()}
    xs = [x for seeds in lines.values() for x, _ in seeds]
    heights = [y for seeds in lines.values() for _, y in seeds]
    heights += [np.array([level]) for level in curve.levels.values() if math.isfinite(level)]
    if not xs:
        return f"<figure><figcaption>{escape(curve.title)}</figcaption><p>No data yet.</p></figure>"
    x_low, x_high = min(float(x[0]) for x in xs), max(float(x[-1]) for x in xs)
    y_low, y_high = min(float(y.min()) for y in heights), max(float(y.max()) for y in heights)
    x_ticks, y_ticks = ticks(x_low, x_high), ticks(y_low, y_high)
    margin = 0.05 * (y_high - y_low) or 0.5 * (abs(y_low) or 1.0)
    frame = _Frame(x_low, x_high, y_low - margin, y_high + margin)
    marks, legend = [], []
    for index, (name, seeds) in enumerate(lines.items()):
        if seeds:
            colour = f"c{index % COLOURS}"
            marks.append(_seeds(frame, seeds, colour))
            count = f" ({len(seeds)} seeds)" if len(seeds) > 1 else ""
            legend.append(f'<li><i class="{colour}"></i>{escape(name)}{count}</li>')
    for index, (name, level) in enumerate(curve.levels.items(), start=len(lines)):
        if math.isfinite(level):
            colour = f"c{index % COLOURS}"
            edges = np.array([frame.x0, frame.x1])
            marks.append(f'<path class="level {colour}" d="{frame.path(edges, np.array([level, level]))}"/>')
            legend.append(f'<li><i class="dash {colour}"></i>{escape(name)} <b>{level:.4g}</b></li>')
    axes = frame.axes(x_ticks, y_ticks, curve.x_label, curve.y_label)
    return (
        f"<figure><figcaption>{escape(curve.title)}</figcaption>"
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(curve.title)}">'
        f"{axes}{''.join(marks)}</svg><ul class=legend>{''.join(legend)}</ul></figure>"
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within [low, high], about ``count`` of them, steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1.0), low + 0.5 * (abs(low) or 1.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def short(value: float, step: float = 0.0) -> str:
    """``2.5M``: a number for an axis whose ticks lie ``step`` apart."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{suffix}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return f"{value:.{decimals}f}" if step > 0 else f"{value:.4g}"


@dataclass(frozen=True)
class _Frame:
    """The data ranges of the drawing area."""

    x0: float
    x1: float
    y0: float
    y1: float

    def path(self, x: Array, y: Array) -> str:
        across = _LEFT + (x - self.x0) / ((self.x1 - self.x0) or 1.0) * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (self.y1 - y) / ((self.y1 - self.y0) or 1.0) * (_HEIGHT - _TOP - _BOTTOM)
        return "M" + "L".join(f"{a:.1f} {d:.1f}" for a, d in zip(across, down, strict=True))

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str) -> str:
        parts = []
        for y in y_ticks:
            line = self.path(np.array([self.x0, self.x1]), np.array([y, y]))
            height = line.rpartition(" ")[2]
            text = short(y, y_ticks[1] - y_ticks[0] if len(y_ticks) > 1 else 0.0)
            parts.append(f'<path class="grid" d="{line}"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{height}" dy=".32em" text-anchor="end">{text}</text>')
        for x in x_ticks:
            place = self.path(np.array([x]), np.array([self.y0]))[1:].partition(" ")[0]
            text = short(x, x_ticks[1] - x_ticks[0] if len(x_ticks) > 1 else 0.0)
            parts.append(f'<text x="{place}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{text}</text>')
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
        turned = f"translate(13 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)"
        parts.append(f'<text transform="{turned}" text-anchor="middle">{escape(y_label)}</text>')
        return "".join(parts)


def _seeds(frame: _Frame, seeds: Sequence[tuple[Array, Array]], colour: str) -> str:
    if len(seeds) == 1:
        return f'<path class="line {colour}" d="{frame.path(*seeds[0])}"/>'
    thin = "".join(f'<path class="seed {colour}" d="{frame.path(x, y)}"/>' for x, y in seeds)
    grid, mean, low, high = over_seeds(seeds)
    if not len(grid):
        return thin
    outline = frame.path(np.concatenate([grid, grid[::-1]]), np.concatenate([high, low[::-1]]))
    band = f'<path class="band {colour}" d="{outline}Z"/>'
    return f'{band}{thin}<path class="line {colour}" d="{frame.path(grid, mean)}"/>'


def over_seeds(seeds: Sequence[tuple[Array, Array]]) -> tuple[Array, Array, Array, Array]:
    """x, mean, low, high where all seeds have data; other seeds are interpolated to the x of the first."""
    first = max(float(x[0]) for x, _ in seeds)
    last = min(float(x[-1]) for x, _ in seeds)
    grid = seeds[0][0][(seeds[0][0] >= first) & (seeds[0][0] <= last)]
    values = np.stack([np.interp(grid, x, y) for x, y in seeds])
    found = [estimate(column) for column in values.T]
    low, high = (np.array([getattr(one, name) for one in found]) for name in ("low", "high"))
    return grid, values.mean(0), low, high


def _drawable(x: Array, y: Array) -> tuple[Array, Array]:
    """The finite points, thinned evenly to what can be seen; the last one stays."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), _POINTS)).round().astype(int))
    return x[keep], y[keep]


def _columns(path: Path, x: str, y: str) -> tuple[Array, Array]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            for name in (x, y):
                if name not in names:
                    raise UserError(f"{path} has no column '{name}'{nearest(name, names)}")
            rows = [(_number(row[x]), _number(row[y])) for row in reader]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    table = np.array(rows, np.float64).reshape(-1, 2)
    table = table[np.isfinite(table).all(1)]
    return table[:, 0], table[:, 1]


def _number(text: str | None) -> float:
    """NaN for an empty cell or one that a crash has cut."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
