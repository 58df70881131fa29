"""The picture of over-optimization as one SVG file that needs no stylesheet: gold and proxy against KL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from rlgen.evaluation.charts import tick_label, ticks
from rlgen.evaluation.overoptimization import Fit

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 46, 44
CURVE_POINTS = 80
COLOURS = {"proxy": "#c2410c", "gold": "#1d4ed8"}
TITLES = {"rl": "PPO", "best_of_n": "Best of n"}
LAWS = {"rl": "d (a − b log d)", "best_of_n": "d (a − b d)"}


def overoptimization_chart(curves: Mapping[str, Mapping[str, Any]], *, unit: str) -> str:
    """Draw one panel a curve, side by side.

    Args:
        curves: what `summarize` returned, by name.
        unit: of the gains, for the y axis.

    Returns:
        An SVG document with dots and 95% whiskers for what was measured, lines for the fits, and, where the gold
        reward has a peak within the range, a dashed line at it.
    """
    total = WIDTH * len(curves)
    panels = "".join(
        f'<g transform="translate({WIDTH * i},0)">{_panel(curve, unit)}</g>' for i, curve in enumerate(curves.values())
    )
    spoken = "; ".join(f"{TITLES[curve['kind']]}: {curve['stop']['sentence']}" for curve in curves.values())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {HEIGHT}" width="{total}" height="{HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="#374151" role="img" '
        f'aria-label="{escape(spoken, quote=True)}"><rect width="{total}" height="{HEIGHT}" fill="#ffffff"/>'
        f"{panels}</svg>\n"
    )


def _panel(curve: Mapping[str, Any], unit: str) -> str:
    points = curve["points"]
    bounds = [point[which][end] for point in points for which in COLOURS for end in ("gain", "low", "high")]
    y_ticks = ticks(min(0.0, *bounds), max(0.0, *bounds), 5)
    x_ticks = ticks(0.0, max(point["kl"] for point in points), 5)

    def x(kl: float) -> float:
        return LEFT + kl / x_ticks[-1] * (WIDTH - LEFT - RIGHT)

    def y(gain: float) -> float:
        share = (gain - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(x_ticks, y_ticks, x, y, curve["kind"], unit)]
    largest = max(point["kl"] for point in points)
    for which, colour in COLOURS.items():
        known = curve[f"{which}_fit"]
        law = Fit(curve["kind"], known["a"], known["b"], known["peak_kl"])
        kls = np.linspace(0.0, math.sqrt(largest), CURVE_POINTS) ** 2
        path = " ".join(f"{x(kl):.1f},{y(gain):.1f}" for kl, gain in zip(kls, law.gain(kls), strict=True))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        for point in points:
            here, seen = x(point["kl"]), point[which]
            parts.append(
                f'<line x1="{here:.1f}" x2="{here:.1f}" y1="{y(seen["low"]):.1f}" y2="{y(seen["high"]):.1f}" '
                f'stroke="{colour}" stroke-opacity="0.35"/>'
                f'<circle cx="{here:.1f}" cy="{y(seen["gain"]):.1f}" r="2.8" fill="{colour}"/>'
            )
    if curve["stop"]["state"] == "peak":
        here = x(curve["stop"]["kl"])
        parts.append(
            f'<line x1="{here:.1f}" x2="{here:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{COLOURS["gold"]}" '
            f'stroke-dasharray="4 3"/><text x="{here + 4:.1f}" y="{HEIGHT - BOTTOM - 5}" fill="{COLOURS["gold"]}">'
            f"stop: KL {curve['stop']['kl']:.2g}</text>"
        )
    return "".join(parts)


def _axes(x_ticks: Sequence[float], y_ticks: Sequence[float], x: Any, y: Any, kind: str, unit: str) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    middle = (LEFT + right) / 2
    parts = [
        f'<text x="{LEFT}" y="17" font-size="13" font-weight="600" fill="#111827">{TITLES[kind]}</text>',
        f'<text x="{LEFT}" y="33">fits: {LAWS[kind]}, d = √KL</text>',
        f'<text x="{right}" y="17" text-anchor="end" fill="{COLOURS["proxy"]}">● proxy</text>',
        f'<text x="{right}" y="33" text-anchor="end" fill="{COLOURS["gold"]}">● gold</text>',
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">KL to the start, nats a completion</text>',
        f'<text transform="translate(12,{(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">{escape(unit)}</text>',
    ]
    for value in y_ticks:
        colour = "#9ca3af" if value == 0 else "#e5e7eb"
        parts.append(
            f'<line x1="{LEFT}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="{colour}"/>'
            f'<text x="{LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{tick_label(value)}</text>'
        )
    for value in x_ticks:
        parts.append(f'<text x="{x(value):.1f}" y="{bottom + 15}" text-anchor="middle">{tick_label(value)}</text>')
    return "".join(parts)
