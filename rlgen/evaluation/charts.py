"""Small charts as inline SVG: learning curves, intervals, distributions. Colours come from the page's stylesheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from markupsafe import Markup

COLOURS = 8  # series classes c0 to c7 in the stylesheet, reused in turn
MARKS = ("filled", "hollow")

_WIDTH, _HEIGHT = 320, 172
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 28


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover a range.

    Args:
        low: Lower end.
        high: Upper end, not below it.
        count: About how many steps.

    Returns:
        Ascending multiples of 1, 2 or 5 times a power of ten; the first is at most `low`, the last at least `high`.
    """
    if not high > low:
        pad = abs(low) * 0.1 or 0.5
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def tick_label(value: float) -> str:
    """A tick as short text: 1500000 is 1.5M, 0.05 is 0.05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:.6g}".replace("-", "−")


def line_chart(lines: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x_label: str = "step") -> Markup:
    """Lines over training steps, each with its label at its end's height in a legend below.

    Args:
        lines: Points (x, y) by label; the first line is drawn solid, later ones dashed.
        title: What is shown, for screen readers.
        x_label: Name of the x axis.
    """
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    x_ticks, y_ticks = ticks(0, max(xs), 4), ticks(min(ys), max(ys), 4)
    right = max(xs)  # the axis ends where training did; ticks beyond are left out

    def place(x: float, y: float) -> tuple[float, float]:
        share_x = x / right if right else 0.0
        share_y = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return _LEFT + share_x * across, _TOP + (1 - share_y) * down

    parts = []
    for value in y_ticks:
        _, y = place(0, value)
        kind = "zero" if value == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick_label(value)}</text>')
    for value in x_ticks:
        if value <= right * 1.0001:
            x, _ = place(value, y_ticks[0])
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{tick_label(value)}</text>')
    parts.append(
        f'<text class="axis" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 1}" text-anchor="end">{escape(x_label)}</text>'
    )
    for number, points in enumerate(lines.values()):
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
        parts.append(f'<polyline class="line l{number}" points="{path}"/>')
    last = {label: points[-1][1] for label, points in lines.items()}
    spoken = f"{title}: " + "; ".join(f"{label} ends at {value:.4g}" for label, value in last.items())
    return _svg("".join(parts), label=spoken, view=f"0 0 {_WIDTH} {_HEIGHT}")


def reliability_chart(bins: Sequence[tuple[float, float, float, float]], *, label: str) -> Markup:
    """Share of right answers over confidence, both from 0.5 to 1 (lower shares are cut off), against the diagonal.

    Args:
        bins: (confidence, accuracy, low, high) each.
        label: What is shown, for screen readers.
    """
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        share = max(0.0, min(1.0, 2 * y - 1))
        return _LEFT + (2 * x - 1) * across, _TOP + (1 - share) * down

    parts = []
    for value in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        x, y = place(value, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{value:.1f}</text>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{value:.1f}</text>')
    x, y = place(1, 1)
    parts.append(f'<line class="zero" x1="{_LEFT}" y1="{_TOP + down}" x2="{x:.1f}" y2="{y:.1f}"/>')
    for confidence, accuracy, low, high in bins:
        (x, top), (_, bottom), (_, y) = place(confidence, high), place(confidence, low), place(confidence, accuracy)
        parts.append(f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        parts.append(f'<circle class="filled" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
    parts.append(f'<text class="axis" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 1}" text-anchor="end">confidence</text>')
    content = f'<g class="c1">{"".join(parts)}</g>'
    return _svg(content, label=label, view=f"0 0 {_WIDTH} {_HEIGHT}")


def interval_row(
    intervals: Sequence[tuple[float, float, float]], span: tuple[float, float], *, colour: int, label: str
) -> Markup:
    """One row of an interval plot, as wide as its container: a dot with whiskers per sampling plan, and zero.

    Args:
        intervals: (estimate, low, high), at most two; the first gets a filled dot, the second a hollow one.
        span: Left and right end of the scale.
        colour: Series number.
        label: What is shown, for screen readers.
    """
    height = 8 + 14 * len(intervals)
    zero = percent(0.0, span)
    parts = [f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="{height}"/>']
    for number, (estimate, low, high) in enumerate(intervals):
        if not math.isfinite(estimate):
            continue
        y = 11 + 14 * number
        if math.isfinite(low) and math.isfinite(high):
            left, right = percent(low, span), percent(high, span)
            parts.append(f'<line class="whisker" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts += [f'<line class="whisker" x1="{x}" x2="{x}" y1="{y - 4}" y2="{y + 4}"/>' for x in (left, right)]
        parts.append(f'<circle class="{MARKS[number % 2]}" cx="{percent(estimate, span)}" cy="{y}" r="4.5"/>')
    return fluid("".join(parts), height, label, f"c{colour % COLOURS}")


def axis_row(span: tuple[float, float]) -> Markup:
    """The scale under interval rows or histograms."""
    inside = [value for value in ticks(*span, 5) if span[0] <= value <= span[1]]
    text = "".join(
        f'<text x="{percent(value, span)}" y="12" text-anchor="middle">{tick_label(value)}</text>' for value in inside
    )
    return Markup(f'<svg class="fluid axis" height="16" aria-hidden="true">{text}</svg>')


def histogram_row(
    values: Sequence[float],
    span: tuple[float, float],
    *,
    peak: float,
    colour: int,
    label: str,
    bins: int = 28,
    zero: bool = False,
) -> Markup:
    """One histogram, as wide as its container, with a line at the mean.

    Args:
        values: What to count.
        span: Left and right end of the scale.
        peak: Share of values that reaches the top, so that several histograms compare.
        colour: Series number.
        label: What is shown, for screen readers.
        bins: Number of bars.
        zero: Whether to mark zero.
    """
    height = 46
    shares = histogram_shares(values, span, bins)
    parts = []
    if zero:
        parts.append(f'<line class="zero" x1="{percent(0.0, span)}" x2="{percent(0.0, span)}" y1="0" y2="{height}"/>')
    for index, share in enumerate(shares):
        if share:
            bar = max(1.0, share / peak * (height - 4))
            parts.append(
                f'<rect class="bar" x="{100 * index / bins:.2f}%" width="{100 / bins - 0.3:.2f}%" '
                f'y="{height - bar:.1f}" height="{bar:.1f}"/>'
            )
    parts.append(f'<line class="base" x1="0" x2="100%" y1="{height}" y2="{height}"/>')
    mean = percent(float(np.mean(values)), span)
    parts.append(f'<line class="mean" x1="{mean}" x2="{mean}" y1="0" y2="{height}"/>')
    return fluid("".join(parts), height, label, f"c{colour % COLOURS}")


def histogram_shares(values: Sequence[float], span: tuple[float, float], bins: int = 28) -> list[float]:
    """Share of the values in each of `bins` equal bars over the span."""
    counts, _ = np.histogram(np.asarray(values, dtype=float), bins=bins, range=span)
    return [float(count) / len(values) for count in counts]


def padded_span(values: Sequence[float], *, include: Sequence[float] = (), pad: float = 0.06) -> tuple[float, float]:
    """Smallest range that holds all finite values, a little wider on both sides."""
    kept = [value for value in (*values, *include) if math.isfinite(value)] or [0.0]
    low, high = min(kept), max(kept)
    margin = (high - low) * pad or abs(low) * 0.1 or 0.5
    return low - margin, high + margin


def percent(value: float, span: tuple[float, float]) -> str:
    """Where a value stands on a scale, as a share of its width."""
    return f"{100 * (value - span[0]) / (span[1] - span[0]):.2f}%"


def fluid(content: str, height: int, label: str, kind: str) -> Markup:
    """A drawing as wide as its container, which is why it places things by percentages."""
    return Markup(
        f'<svg class="fluid {kind}" height="{height}" role="img" aria-label="{escape(label)}">{content}</svg>'
    )


def _svg(content: str, *, label: str, view: str) -> Markup:
    return Markup(f'<svg viewBox="{view}" role="img" aria-label="{escape(label)}">{content}</svg>')
