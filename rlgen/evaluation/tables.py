"""The comparison as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from rlgen.evaluation.formats import key_measures, plain, signed
from rlgen.evaluation.results import find_comparison, main_pairs


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
    for a, b in pairs[:4]:
        table.add_column(Text(f"{b} - {a}"), justify="right")
    for measure in key_measures(results):
        cells = [Text(measure)]
        cells += [Text(plain(results["summary"][name][plan][measure]["mean"])) for name in names]
        for a, b in pairs[:4]:
            paired = find_comparison(results, a, b, measure, plan)
            interval = f"\n[{signed(paired.low)}, {signed(paired.high)}]" if paired.n > 1 else ""
            cells.append(Text(signed(paired.difference) + interval, style="bold" if paired.shown else "dim"))
        table.add_row(*cells)
    return table
