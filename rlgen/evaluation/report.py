"""One self-contained HTML page from results.json and the learning curves of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlgen.evaluation.charts import COLOURS
from rlgen.evaluation.curves import Panel, run_curves
from rlgen.evaluation.formats import key_measures, template
from rlgen.evaluation.plots import curve_plots, distribution_plots, front_plot, interval_plots
from rlgen.evaluation.results import direction, find_comparison, main_methods, main_pairs, primary_measure, title
from rlgen.evaluation.samples import sample_data, script_data
from rlgen.runs import write_atomic

# Parts of results.json that stand at the end of the report, by heading.
_REPRODUCTION = {
    "Configuration": "config",
    "Sampling": "sampling",
    "Versions": "versions",
    "Held-out prompts against training data": "heldout_check",
}

SENTENCES = 6  # of the verdict that are not folded away
MAX_PAIRS = 8  # rows of a plot; the tables hold all


def write_report(folder: str | Path, results: Mapping[str, Any], runs: Mapping[str, str] | None = None) -> Path:
    """Write `report.html`.

    Args:
        folder: Where to.
        results: What results.json holds.
        runs: Run folders by name, for the learning curves.

    Returns:
        The path of the report.
    """
    panels = [panel for name, run in (runs or {}).items() for panel in run_curves(name, run)]
    path = Path(folder) / "report.html"
    write_atomic(path, render_report(results, panels))
    return path


def render_report(results: Mapping[str, Any], panels: Sequence[Panel] = ()) -> str:
    """The page as text; everything that a model or a user wrote is escaped."""
    names = [checkpoint["name"] for checkpoint in results["checkpoints"]]
    pairs = main_pairs(names) if len(names) > 1 else []
    drawn = pairs[:MAX_PAIRS]
    return template("report.html.j2").render(
        results=results,
        names=names,
        titles=[title(name) for name in names],
        colours={name: index % COLOURS for index, name in enumerate(names)},
        plans=[plan["name"] for plan in results["sampling"]],
        primary=primary_measure(results),
        shown_sentences=SENTENCES,
        verdict=[_verdict(sentence) for sentence in results["verdict"]],
        differences=_differences(results, pairs),
        methods=_methods(results),
        win_rates=_win_rates(results, pairs),
        intervals=interval_plots(results, drawn, names),
        distributions=distribution_plots(results, drawn, names),
        undrawn=len(pairs) - len(drawn),
        front=front_plot(results, names),
        curves=curve_plots(panels, names),
        reproduction={heading: results[key] for heading, key in _REPRODUCTION.items() if results.get(key)},
        data=script_data(sample_data(results, pairs)),
    )


def _verdict(sentence: str) -> dict[str, str]:
    """A sentence of the verdict, cut after its claim, and what it speaks of: methods, checkpoints, or a doubt."""
    if sentence.startswith("Warning"):
        return {"kind": "warning", "claim": "", "numbers": sentence}
    claim, _, numbers = sentence.partition(": ")
    if " as methods, " in claim:
        # Its numbers come in two steps: what is claimed, then how large it is.
        finding, _, numbers = numbers.partition(", ")
        return {"kind": "methods", "claim": f"{claim}: {finding}", "numbers": numbers}
    return {"kind": "checkpoints", "claim": claim, "numbers": numbers}


def _differences(results: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The main table: per main pair, its key measures under the main sampling plan."""
    plan = results["sampling"][0]["name"]
    tests = {
        (frozenset((row["a"], row["b"])), row["measure"]): row
        for row in results["comparisons"]
        if row["sampling"] == plan
    }
    groups = []
    for a, b in pairs:
        found = [(measure, find_comparison(results, a, b, measure, plan)) for measure in key_measures(results)]
        rows = [
            {
                "measure": measure,
                "paired": paired,
                "tone": _tone(results, measure, paired.difference, paired.shown),
                "test": tests[frozenset((a, b)), measure],
                "effect": _effect(tests[frozenset((a, b)), measure], a),
            }
            for measure, paired in found
            if paired.n
        ]
        groups.append({"a": a, "b": b, "rows": rows})
    return groups


def _effect(row: Mapping[str, Any], a: str) -> float | None:
    """Effect size of a comparison read from `a`, whichever way round results.json has it."""
    size = row["effect_size"]
    return size if size is None or row["a"] == a else -size


def _methods(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Differences between ways of training, the main pairs on the key measures."""
    return [
        row | {"tone": _tone(results, row["measure"], row["difference"], row["shown"])}
        for row in main_methods(results)
        if row["measure"] in key_measures(results)
    ]


def _win_rates(results: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> list[Mapping[str, Any]]:
    """Win rates with and without the influence of length, of the main pairs in the direction of results.json."""
    wanted = [frozenset(pair) for pair in pairs]
    rows = [row for row in results["win_rates"] if frozenset((row["a"], row["b"])) in wanted]
    return sorted(rows, key=lambda row: wanted.index(frozenset((row["a"], row["b"]))))


def _tone(results: Mapping[str, Any], measure: str, difference: float, shown: bool) -> str:
    """Whether a difference is shown and good, shown and bad, shown without direction, or not shown."""
    if not shown:
        return "none"
    up = direction(results, measure)
    if up is None:
        return "shown"
    return "better" if (difference > 0) == up else "worse"
