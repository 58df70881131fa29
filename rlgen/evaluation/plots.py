"""What a comparison's results look like drawn: intervals, distributions, reward against KL, learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from rlgen.evaluation import charts
from rlgen.evaluation.curves import Panel
from rlgen.evaluation.formats import key_measures, signed
from rlgen.evaluation.results import find_comparison, primary_measure
from rlgen.evaluation.scatter import Point, scatter
from rlgen.evaluation.statistics import Paired, prompt_means

Pairs = Sequence[tuple[str, str]]


def interval_plots(results: Mapping[str, Any], pairs: Pairs, names: Sequence[str]) -> list[dict[str, Any]]:
    """Interval plots, one per key measure: a row per main pair, all on one scale."""
    plans = [plan["name"] for plan in results["sampling"]][:2]
    plots = []
    for measure in key_measures(results):
        found = [
            (a, b, [paired for plan in plans if (paired := find_comparison(results, a, b, measure, plan)).n])
            for a, b in pairs
        ]
        found = [row for row in found if row[2]]
        if not found:
            continue
        ends = [
            value for _, _, row in found for paired in row for value in (paired.low, paired.high, paired.difference)
        ]
        span = charts.padded_span(ends, include=[0.0])
        rows = [
            {
                "a": a,
                "b": b,
                "text": f"{signed(row[0].difference)} [{signed(row[0].low)}, {signed(row[0].high)}]",
                "svg": charts.interval_row(
                    [(paired.difference, paired.low, paired.high) for paired in row],
                    span,
                    colour=names.index(b),
                    label=_spoken(a, b, measure, row[0]),
                ),
            }
            for a, b, row in found
        ]
        plots.append(
            {"measure": measure, "rows": rows, "axis": charts.axis_row(span), "zero": charts.percent(0.0, span)}
        )
    return plots


def distribution_plots(results: Mapping[str, Any], pairs: Pairs, names: Sequence[str]) -> list[dict[str, Any]]:
    """Histograms of the main measure over prompts: of each checkpoint, and of the differences of the main pairs."""
    measure, plan = primary_measure(results), results["sampling"][0]["name"]
    if measure is None:
        return []
    rows = [sample for sample in results["samples"] if sample["sampling"] == plan]
    means = {
        name: prompt_means([[answer["scores"].get(measure) for answer in row["completions"][name]] for row in rows])
        for name in names
    }
    by_name = [(name, name, values) for name, values in means.items()]
    by_pair = [(f"{b} − {a}", b, means[b] - means[a]) for a, b in pairs]
    plots = [
        _histograms(measure, f"Prompts by {measure}, {plan}; the line marks the mean.", by_name, names, zero=False),
        _histograms(
            f"{measure}, prompt by prompt",
            "Prompts by how much the two differ; the thin line is zero, the thick one the mean.",
            by_pair,
            names,
            zero=True,
        ),
    ]
    return [plot for plot in plots if plot]


def _histograms(
    heading: str, note: str, rows: Sequence[tuple[str, str, np.ndarray]], names: Sequence[str], *, zero: bool
) -> dict[str, Any]:
    """Histograms on one scale, a row per (label, checkpoint whose colour it has, values); empty without values."""
    kept = [(label, name, [float(v) for v in values if not math.isnan(v)]) for label, name, values in rows]
    kept = [row for row in kept if row[2]]
    if not kept:
        return {}
    everything = [value for _, _, values in kept for value in values]
    span = charts.padded_span(everything, include=[0.0] if zero else [], pad=0.02)
    peak = max(max(charts.histogram_shares(values, span)) for _, _, values in kept)
    drawn = [
        {
            "label": label,
            "svg": charts.histogram_row(
                values,
                span,
                peak=peak,
                colour=names.index(name),
                zero=zero,
                label=f"Distribution of {heading} for {label}: mean {np.mean(values):.3f}, "
                f"from {min(values):.3f} to {max(values):.3f}",
            ),
        }
        for label, name, values in kept
    ]
    return {"heading": heading, "note": note, "axis": charts.axis_row(span), "rows": drawn}


def front_plot(results: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """The main measure against the KL divergence, with the front of checkpoints that nothing beats on both."""
    measure, reference = primary_measure(results), results["kl_reference"]
    if measure is None or reference is None:
        return None
    plans = [plan["name"] for plan in results["sampling"]][:2]
    points = []
    for number, plan in enumerate(plans):
        for name in names:
            x = _with_ends(results["summary"][name][plan].get(f"kl_{reference}"))
            y = _with_ends(results["summary"][name][plan].get(measure))
            if x and y:
                # The greedy and the sampled dot of a checkpoint share its colour; one name is enough.
                points.append(Point("" if number else name, x, y, names.index(name), hollow=number == 1))
    if len(points) < 2:
        return None
    on_front = [
        row
        for row in results["pareto"]
        if row["on_front"] and (row["sampling"], row["measure"]) == (plans[0], measure)
    ]
    spoken = "; ".join(f"{p.name} {measure} {p.y[0]:.3f} at a KL of {p.x[0]:.3g} nats" for p in points if p.name)
    best = [row["checkpoint"] for row in on_front]
    return {
        "measure": measure,
        "reference": reference,
        "best": best,
        "svg": scatter(
            points,
            sorted((row["kl"], row["value"]) for row in on_front),
            x_label=f"KL to {reference}, nats per completion, root scale",
            label=f"{measure} against KL: {spoken}",
        ),
    }


def curve_plots(panels: Sequence[Panel], names: Sequence[str]) -> list[dict[str, Any]]:
    """Learning curves by run; a run that is no checkpoint gets a colour of its own."""
    runs = list(dict.fromkeys([*names, *(panel.run for panel in panels)]))
    return [
        {
            "run": run,
            "colour": runs.index(run) % charts.COLOURS,
            "panels": [
                {
                    "title": panel.title,
                    "svg": charts.line_chart(panel.lines, title=f"{run}, {panel.title}"),
                    "labels": list(panel.lines),
                }
                for panel in group
            ],
        }
        for run, group in groupby(panels, key=lambda panel: panel.run)
    ]


def _spoken(a: str, b: str, measure: str, paired: Paired) -> str:
    return (
        f"{b} minus {a} on {measure}: {signed(paired.difference)}, "
        f"95% interval {signed(paired.low)} to {signed(paired.high)}"
    )


def _with_ends(cell: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    """Mean and interval of a summary's cell; None where there is no mean."""
    if cell is None or cell["mean"] is None:
        return None
    low, high = (math.nan if cell[end] is None else cell[end] for end in ("ci_low", "ci_high"))
    return cell["mean"], low, high
