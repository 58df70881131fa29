"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from rlgen.evaluation.formats import key_measures, plain, signed
from rlgen.evaluation.results import find_comparison, main_pairs

MOST_PAIRS = 4  # columns that a terminal has room for


def results_table(results: Mapping[str, Any]) -> Table:
    """Means per checkpoint and paired differences with 95% intervals, for the main sampling plan.

    Args:
        results: What results.json holds.
    """
    plan = results["sampling"][0]["name"]
    names = [checkpoint["name"] for checkpoint in results["checkpoints"]]
    pairs = main_pairs(names) if len(names) > 1 else []
    table = Table(title=f"{results['n_prompts']} held-out prompts, {plan}", title_justify="left")
    table.add_column("measure")
    for name in names:
        table.add_column(Text(name), justify="right")
    if len(pairs) > MOST_PAIRS:
        table.caption = f"{len(pairs) - MOST_PAIRS} more pairs are in the report"
        table.caption_justify = "left"
    for a, b in pairs[:MOST_PAIRS]:
        table.add_column(Text(f"{b} - {a}"), justify="right")
    for measure in key_measures(results):
        cells = [Text(measure)]
        cells += [Text(plain(results["summary"][name][plan][measure]["mean"])) for name in names]
        for a, b in pairs[:MOST_PAIRS]:
            paired = find_comparison(results, a, b, measure, plan)
            interval = f"\n[{signed(paired.low)}, {signed(paired.high)}]" if paired.n > 1 else ""
            cells.append(Text(signed(paired.difference) + interval, style="bold" if paired.shown else "dim"))
        table.add_row(*cells)
    return table


def overoptimization_table(name: str, result: Mapping[str, Any], most: int = 12) -> Table:
    """Gains of proxy and gold over the start along a curve, with 95% intervals.

    Args:
        name: of the curve.
        result: what `rlgen.evaluation.overoptimization.summarize` returned.
        most: so many of its points are shown, evenly spaced, the last one among them.
    """
    table = Table(title=f"{name}: gain over the start, in standard deviations of its samples", title_justify="left")
    table.add_column("point")
    for heading in ("KL", "proxy", "gold"):
        table.add_column(heading, justify="right")
    points = result["points"]
    shown = sorted({round(i * (len(points) - 1) / max(most - 1, 1)) for i in range(most)})
    for point in (points[i] for i in shown):
        cells = [
            f"{signed(e['gain'])} [{signed(e['low'])}, {signed(e['high'])}]" for e in (point["proxy"], point["gold"])
        ]
        table.add_row(Text(point["label"]), f"{point['kl']:.3f}", *(Text(cell) for cell in cells))
    return table
