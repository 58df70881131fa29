"""One self-contained HTML page from results.json and the learning curves of the runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlgen.evaluation import charts
from rlgen.evaluation.curves import Panel, run_curves
from rlgen.evaluation.results import find_comparison, main_pairs, primary_measure, title
from rlgen.evaluation.statistics import Paired, prompt_means
from rlgen.runs import write_atomic

# Parts of results.json that stand at the end of the report, by heading.
_REPRODUCTION = {
    "Configuration": "config",
    "Sampling": "sampling",
    "Versions": "versions",
    "Held-out prompts against training data": "heldout_check",
}

MAX_PAIRS = 8  # rows of an interval plot; the table of all comparisons holds the rest


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
    environment = Environment(
        loader=PackageLoader("rlgen.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(signed=signed, plain=plain, percent=percent, pretty=pretty)
    names = [checkpoint["name"] for checkpoint in results["checkpoints"]]
    pairs = main_pairs(names)[:MAX_PAIRS] if len(names) > 1 else []
    return environment.get_template("report.html.j2").render(
        results=results,
        names=names,
        titles=[title(name) for name in names],
        colours={name: index % charts.COLOURS for index, name in enumerate(names)},
        plans=[plan["name"] for plan in results["sampling"]],
        primary=primary_measure(results),
        measures={measure["name"]: measure for measure in results["measures"]},
        key_measures=key_measures(results),
        differences=_differences(results, pairs),
        intervals=_intervals(results, pairs, names),
        distributions=_distributions(results, names),
        curves=_curves(panels, names),
        reproduction={title: results[key] for title, key in _REPRODUCTION.items() if results.get(key)},
        data=script_data(sample_data(results, pairs)),
    )


def key_measures(results: Mapping[str, Any]) -> list[str]:
    """The measures that answer the reader's question: the reward, reward models, metrics, KL and length."""
    primary = primary_measure(results)
    keys = [
        measure["name"]
        for measure in results["measures"]
        if measure["name"] == primary
        or measure["kind"] == "metric"
        or measure["name"].startswith(("reward_model", "kl_"))
        or measure["name"] == "length"
    ]
    return keys


def sample_data(results: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What the page's script needs to show samples: short keys, scores as lists in the order of the measures."""
    measures = [
        measure["name"] for measure in results["measures"] if measure["name"] in _sample_measures(results["samples"])
    ]
    return {
        "names": [checkpoint["name"] for checkpoint in results["checkpoints"]],
        "measures": measures,
        "key": [name for name in key_measures(results) if name in measures],
        "primary": primary_measure(results),
        "pairs": [list(pair) for pair in pairs],
        "plans": [plan["name"] for plan in results["sampling"]],
        "rows": [
            {
                "plan": sample["sampling"],
                "prompt": sample["code"] or sample["prompt"],
                "full": sample["prompt"] if sample["code"] else None,
                "reference": sample["reference"],
                "answers": {
                    name: [
                        [answer["text"], answer["finished"], [answer["scores"][measure] for measure in measures]]
                        for answer in answers
                    ]
                    for name, answers in sample["completions"].items()
                },
            }
            for sample in results["samples"]
        ],
    }


def script_data(data: Any) -> Markup:
    """JSON that cannot end the script element it stands in, whatever a model wrote."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def plain(value: float | None, digits: int = 3) -> str:
    """A number; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{1 if abs(value) >= 100 else digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """A share as percent; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.0%}"


def pretty(value: Any) -> str:
    """A part of the results as JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _sample_measures(samples: Sequence[Mapping[str, Any]]) -> set[str]:
    answers: list[Any] = next((a for sample in samples for a in sample["completions"].values() if a), [])
    return set(answers[0]["scores"]) if answers else set()


def _differences(results: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The main table: per main pair, its key measures under the main sampling plan."""
    plan = results["sampling"][0]["name"]
    groups = []
    for a, b in pairs:
        found = [(measure, find_comparison(results, a, b, measure, plan)) for measure in key_measures(results)]
        rows = [
            {"measure": measure, "paired": paired, "tone": _tone(results, measure, paired)}
            for measure, paired in found
            if paired.n
        ]
        groups.append({"a": a, "b": b, "rows": rows})
    return groups


def _tone(results: Mapping[str, Any], measure: str, paired: Paired) -> str:
    """Whether a difference is shown and good, shown and bad, shown without direction, or not shown."""
    direction = next(entry["higher_is_better"] for entry in results["measures"] if entry["name"] == measure)
    if not paired.shown:
        return "none"
    if direction is None:
        return "shown"
    return "better" if (paired.difference > 0) == direction else "worse"


def _intervals(
    results: Mapping[str, Any], pairs: Sequence[tuple[str, str]], names: Sequence[str]
) -> list[dict[str, Any]]:
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


def _spoken(a: str, b: str, measure: str, paired: Paired) -> str:
    return (
        f"{b} minus {a} on {measure}: {signed(paired.difference)}, "
        f"95% interval {signed(paired.low)} to {signed(paired.high)}"
    )


def _distributions(results: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """Histograms of the main measure over prompts, one per checkpoint on one scale."""
    measure, plan = primary_measure(results), results["sampling"][0]["name"]
    rows = [sample for sample in results["samples"] if sample["sampling"] == plan]
    if measure is None:
        return None
    values: dict[str, list[float]] = {}
    for name in names:
        means = prompt_means([[a["scores"][measure] for a in row["completions"][name]] for row in rows])
        values[name] = [float(mean) for mean in means if not math.isnan(mean)]
    values = {name: kept for name, kept in values.items() if kept}
    if not values:
        return None
    span = charts.padded_span([value for kept in values.values() for value in kept], pad=0.02)
    peak = max(max(charts.histogram_shares(kept, span)) for kept in values.values())
    return {
        "measure": measure,
        "axis": charts.axis_row(span),
        "rows": [
            {
                "name": name,
                "svg": charts.histogram_row(
                    kept,
                    span,
                    peak=peak,
                    colour=names.index(name),
                    label=f"Distribution of {measure} for {name}: mean {sum(kept) / len(kept):.3f}, "
                    f"from {min(kept):.3f} to {max(kept):.3f}",
                ),
            }
            for name, kept in values.items()
        ],
    }


def _curves(panels: Sequence[Panel], names: Sequence[str]) -> list[dict[str, Any]]:
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
