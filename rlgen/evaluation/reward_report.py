"""One self-contained HTML page from a reward's evaluation.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlgen.evaluation import charts
from rlgen.evaluation.formats import plain, template
from rlgen.runs import write_atomic

_SLICES = {"by_source": "source", "by_domain": "domain", "by_length_gap": "length of the chosen text"}


def write_reward_report(folder: str | Path, evaluation: Mapping[str, Any], *, name: str, pairs: str) -> Path:
    """Write `reward_report.html`.

    Args:
        folder: Where to.
        evaluation: What evaluation.json holds.
        name: The reward.
        pairs: What it was evaluated on.

    Returns:
        The path of the report.
    """
    path = Path(folder) / "reward_report.html"
    write_atomic(path, render_reward_report(evaluation, name=name, pairs=pairs))
    return path


def render_reward_report(evaluation: Mapping[str, Any], *, name: str, pairs: str) -> str:
    """The page as text; everything that a model or a user wrote is escaped."""
    bins = [
        (entry["confidence"], entry["accuracy"], entry["ci_low"], entry["ci_high"])
        for entry in evaluation["calibration"]["bins"]
    ]
    return template("reward_report.html.j2").render(
        name=name,
        pairs=pairs,
        evaluation=evaluation,
        accuracies=_accuracies(evaluation),
        slices={
            title: [_row(group, entry) for group, entry in evaluation[key].items()]
            for key, title in _SLICES.items()
            if len(evaluation[key]) > 1
        },
        reliability=charts.reliability_chart(bins, label="Share of right answers over confidence"),
    )


def _accuracies(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The reward, the members of an ensemble, and every other ranker with its difference."""
    rows = [_row("this reward", evaluation)]
    ensemble = evaluation.get("ensemble", {})
    rows += [_row(f"member {number}", entry) for number, entry in enumerate(ensemble.get("members", []))]
    rows += [_row(f"aggregate: {how}", entry) for how, entry in ensemble.get("aggregates", {}).items()]
    return rows + [_row(other.replace("_", " "), entry) for other, entry in evaluation["against"].items()]


def _row(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table, with its interval drawn around a line at one half."""
    interval = tuple(entry[key] - 0.5 for key in ("accuracy", "ci_low", "ci_high"))
    label = f"{name}: {plain(entry['accuracy'])}, 95% interval {plain(entry['ci_low'])} to {plain(entry['ci_high'])}"
    return {
        "name": name,
        **entry,
        "svg": charts.interval_row([(interval[0], interval[1], interval[2])], (-0.5, 0.5), colour=1, label=label),
    }
