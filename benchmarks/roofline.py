"""The roofline picture: what matrix products reach, under what memory and arithmetic allow.

One panel for each instruction set; across, multiply-adds for each byte of weights read (it grows
with the columns of a batch), upwards, multiply-adds per second; both logarithmic. SVG as text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle
from typing import Any

from kernels import TYPES, Case
from spread import Spread

WIDTH, HEIGHT = 480, 400  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 36, 46  # margins inside it
PALETTE = (
    *("#d62728", "#ff7f0e", "#2ca02c", "#17a2b8", "#1f5fb4", "#9467bd", "#7f7f7f", "#8c564b"),
    *("#e377c2", "#bcbd22", "#0b6e4f", "#5c1a8e", "#b5651d", "#003f5c", "#c2185b"),
)
#: type → colour; types of fewer bits first
COLOURS = dict(zip(sorted(TYPES, key=lambda type: TYPES[type].bits), cycle(PALETTE)))


@dataclass(frozen=True)
class Axes:
    """The logarithmic frame of a panel."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point in the picture."""
        across = _share(x, self.x) * (WIDTH - LEFT - RIGHT)
        up = _share(y, self.y) * (HEIGHT - TOP - BOTTOM)
        return round(self.left + LEFT + across, 1), round(HEIGHT - BOTTOM - up, 1)


def _share(value: float, ends: tuple[float, float]) -> float:
    low, high = map(math.log, ends)
    return (math.log(value) - low) / (high - low)


def roofline(result: dict[str, Any]) -> str:
    """Return the picture of a kernels result, with the most threads."""
    cases = [Case(**fields) for fields in result["cases"]]
    cases = [case for case in cases if case.kernel == "matmul"]
    team = max(case.n_threads for case in cases)
    cases = [case for case in cases if case.n_threads == team]
    isas = sorted({case.isa for case in cases}, reverse=True)
    limits = result["limits"]
    intensities = [case.macs / case.bytes for case in cases]
    speeds = [case.macs / min(case.seconds) for case in cases] + [
        max(samples[str(team)]) for samples in limits["multiply_peak"].values()
    ]
    ends = (min(intensities) / 1.3, max(intensities) * 1.3), (min(speeds) / 2, max(speeds) * 1.5)
    width = WIDTH * len(isas)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
        f'width="{width}" height="{HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
    ]
    for i, isa in enumerate(isas):
        axes = Axes(*ends, left=i * WIDTH)
        mine = [case for case in cases if case.isa == isa]
        parts += _frame(axes, f"{isa}, {team} thread{'s' * (team > 1)}")
        parts += _roofs(axes, isa, limits, str(team))
        parts += _series(axes, mine)
    return "\n".join([*parts, "</svg>", ""])


def _frame(axes: Axes, title: str) -> list[str]:
    (x0, y0), (x1, y1) = axes.at(axes.x[0], axes.y[0]), axes.at(axes.x[1], axes.y[1])
    middle, centre = (x0 + x1) / 2, (y0 + y1) / 2
    parts = [
        f'<rect x="{x0}" y="{y1}" width="{x1 - x0:.1f}" height="{y0 - y1:.1f}" fill="none" '
        'stroke="#444"/>',
        _text(middle, TOP - 14, title, 'text-anchor="middle" font-weight="bold"'),
        _text(middle, HEIGHT - 10, "multiply-adds for each byte of weights", _MIDDLE),
        _text(0, 0, "GMAC/s", f'{_MIDDLE} transform="translate({x0 - 40} {centre}) rotate(-90)"'),
    ]
    for x in _steps(axes.x, [1], 2):
        at, _ = axes.at(x, axes.y[0])
        parts.append(_line([(at, y0), (at, y1)], "#e4e4e4"))
        parts.append(_text(at, y0 + 15, f"{x:g}", _MIDDLE))
    for y in _steps(axes.y, [1, 2, 5], 10):
        _, at_y = axes.at(axes.x[0], y)
        parts.append(_line([(x0, at_y), (x1, at_y)], "#e4e4e4"))
        parts.append(_text(x0 - 5, at_y + 4, f"{y / 1e9:,.0f}", 'text-anchor="end"'))
    return parts


def _roofs(axes: Axes, isa: str, limits: dict[str, Any], team: str) -> list[str]:
    bandwidth = max(limits["read_bandwidth"][team])
    parts = []
    for kind, name in ("int8", "8-bit peak"), ("f32", "f32 peak"):
        peak = max(limits["multiply_peak"][f"{isa}/{kind}"][team])
        start = max(axes.x[0], axes.y[0] / bandwidth)
        ridge = min(max(peak / bandwidth, start), axes.x[1])
        corners = [
            axes.at(start, start * bandwidth),
            axes.at(ridge, ridge * bandwidth),
            axes.at(axes.x[1], min(peak, axes.x[1] * bandwidth)),
        ]
        parts.append(_line(corners, "#222", 1.5))
        x, y = corners[-1]
        parts.append(_text(x - 4, y - 4, f"{name} {peak / 1e9:,.0f}", 'text-anchor="end"'))
    x, y = axes.at(axes.x[0] * 4, axes.x[0] * 4 * bandwidth)
    parts.append(_text(x - 8, y - 4, f"read {bandwidth / 1e9:.0f} GB/s", 'text-anchor="end"'))
    return parts


def _series(axes: Axes, cases: Sequence[Case]) -> list[str]:
    parts = []
    x, y = axes.at(axes.x[1], axes.y[0])
    for i, type in enumerate(t for t in reversed(COLOURS) if t in {case.type for case in cases}):
        points = [
            axes.at(case.macs / case.bytes, case.macs / Spread.of(case.seconds).median)
            for case in sorted(cases, key=lambda case: case.n_columns)
            if case.type == type
        ]
        colour = COLOURS[type]
        parts.append(_line(points, colour))
        parts += [f'<circle cx="{px}" cy="{py}" r="2.8" fill="{colour}"/>' for px, py in points]
        parts.append(_text(x - 38, y - 10 - 14 * i, type, f'fill="{colour}" font-weight="bold"'))
    return parts


_MIDDLE = 'text-anchor="middle"'


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'


def _line(points: Sequence[tuple[float, float]], colour: str, width: float = 1) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _steps(ends: tuple[float, float], factors: Sequence[float], base: float) -> list[float]:
    """Return base^i times each factor, for every i, between the ends."""
    powers = range(math.floor(math.log(ends[0], base)), math.ceil(math.log(ends[1], base)) + 1)
    values = [base**i * factor for i in powers for factor in factors]
    return [value for value in values if ends[0] <= value <= ends[1]]
