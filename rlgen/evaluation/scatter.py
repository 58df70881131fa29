"""A scatter plot with whiskers in both directions and a front, as inline SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from rlgen.evaluation.charts import COLOURS, fluid, padded_span, tick_label, ticks

_HEIGHT, _TOP, _BOTTOM = 300, 10, 36  # pixels
_LEFT, _RIGHT = 9.0, 98.0  # percent of the width
_LETTER = 1.2  # width of a letter, likewise, on a page of middling width


@dataclass(frozen=True)
class Point:
    """One dot.

    Args:
        name: Written beside the dot; empty for none.
        x: Estimate, lower and upper end of its interval, NaN where there is none.
        y: Likewise.
        colour: Series number.
        hollow: Whether the dot is hollow.
    """

    name: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]
    colour: int
    hollow: bool = False


@dataclass(frozen=True)
class _Scales:
    """Where values stand: across in percent of the width, by their roots; down in pixels."""

    x: tuple[float, float]  # of the roots
    y: tuple[float, float]

    def across(self, value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (_root(value) - self.x[0]) / (self.x[1] - self.x[0])

    def down(self, value: float) -> float:
        return _TOP + (_HEIGHT - _BOTTOM - _TOP) * (self.y[1] - value) / (self.y[1] - self.y[0])


def scatter(points: Sequence[Point], front: Sequence[tuple[float, float]], *, x_label: str, label: str) -> Markup:
    """Dots with whiskers, as wide as the container, and the front of those that nothing beats.

    The x axis is a KL divergence and goes by its root, which is a distance (Gao et al. 2023, arXiv 2210.10760): far
    checkpoints do not squeeze near ones together.

    Args:
        points: At least one.
        front: Corners (x, y) of the front, ascending in x; drawn as steps.
        x_label: Name of the x axis.
        label: What is shown, for screen readers.
    """
    scales = _Scales(
        padded_span([_root(value) for point in points for value in point.x], pad=0.08),
        padded_span([value for point in points for value in point.y], pad=0.08),
    )
    parts = [*_axes(scales, x_label), *_front(scales, front)]
    taken: list[tuple[float, float, float]] = []  # left and right end, and height of the names
    for point in sorted(points, key=lambda point: -point.y[0]):
        x, y = scales.across(point.x[0]), scales.down(point.y[0])
        drawn = []
        if math.isfinite(point.x[1]):
            drawn.append(_line("whisker thin", scales.across(point.x[1]), scales.across(point.x[2]), y, y))
        if math.isfinite(point.y[1]):
            drawn.append(_line("whisker thin", x, x, scales.down(point.y[1]), scales.down(point.y[2])))
        mark = "hollow" if point.hollow else "filled"
        drawn.append(f'<circle class="{mark}" cx="{x:.2f}%" cy="{y:.1f}" r="5"/>')
        if point.name:
            drawn.append(_name(point.name, x, y - 9, taken))
        parts.append(f'<g class="c{point.colour % COLOURS}">{"".join(drawn)}</g>')
    return fluid("".join(parts), _HEIGHT, label, "scatter")


def _axes(scales: _Scales, x_label: str) -> list[str]:
    parts = []
    for value in (value for value in ticks(*scales.y, 5) if scales.y[0] <= value <= scales.y[1]):
        y = scales.down(value)
        parts.append(_line("grid", _LEFT, _RIGHT, y, y))
        parts.append(f'<text x="{_LEFT - 1:.2f}%" y="{y + 3.5:.1f}" text-anchor="end">{tick_label(value)}</text>')
    last = -math.inf
    for value in (0.0, *(digit * 10.0**power for power in range(-3, 5) for digit in (1, 2, 5))):
        x, y = scales.across(value), _HEIGHT - _BOTTOM + 16
        if _LEFT <= x <= _RIGHT and x - last > 6:
            last = x
            parts.append(f'<text x="{x:.2f}%" y="{y}" text-anchor="middle">{tick_label(value)}</text>')
    parts.append(f'<text class="axis" x="{_RIGHT}%" y="{_HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    return parts


def _front(scales: _Scales, front: Sequence[tuple[float, float]]) -> list[str]:
    parts = []
    for (x1, y1), (x2, y2) in itertools.pairwise(front):
        left, right, high, low = scales.across(x1), scales.across(x2), scales.down(y1), scales.down(y2)
        parts += [_line("front", left, right, high, high), _line("front", right, right, high, low)]
    return parts


def _name(name: str, x: float, y: float, taken: list[tuple[float, float, float]]) -> str:
    """A dot's name, moved down until it stands on no other."""
    on_the_left = x > 75
    left, right = (x - _LETTER * len(name) - 1, x) if on_the_left else (x, x + _LETTER * len(name) + 1)
    while any(left < end and start < right and abs(y - height) < 12 for start, end, height in taken):
        y += 12
    taken.append((left, right, y))
    anchor, shift = ("end", -8) if on_the_left else ("start", 8)
    return f'<text class="name" x="{x:.2f}%" dx="{shift}" y="{y:.1f}" text-anchor="{anchor}">{escape(name)}</text>'


def _root(value: float) -> float:
    """Square root that takes estimates below zero as well."""
    return math.copysign(math.sqrt(abs(value)), value)


def _line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.2f}%" x2="{x2:.2f}%" y1="{y1:.1f}" y2="{y2:.1f}"/>'
