"""Learning curves from the metrics.jsonl of training runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlgen.runs import read_metrics

Points = list[tuple[float, float]]  # (step, value), by step


@dataclass(frozen=True)
class Panel:
    """One chart: some logged numbers of one run against the training step."""

    run: str
    title: str
    lines: dict[str, Points] = field(default_factory=dict)


# Per stage, the charts worth drawing: title, then the label of each line with a pattern of the key it is logged under.
_PANELS: Mapping[str, tuple[tuple[str, Mapping[str, str]], ...]] = {
    "sft": (
        ("Loss", {"training": r"loss", "validation": r"eval_loss"}),
        ("Token accuracy", {"training": r"mean_token_accuracy", "validation": r"eval_mean_token_accuracy"}),
    ),
    "reward": (
        ("Loss", {"training": r"loss", "validation": r"eval_loss"}),
        ("Pair accuracy", {"training": r"accuracy", "validation": r"eval_accuracy"}),
    ),
    "dpo": (
        ("Loss", {"training": r"loss", "validation": r"eval_loss"}),
        ("Pair accuracy", {"training": r"rewards/accuracies", "validation": r"eval_rewards/accuracies"}),
    ),
    "ppo": (
        ("Reward", {"rollouts": r"(objective/)?reward", "held out": r"eval_(objective/)?reward"}),
        ("KL to the reference", {"rollouts": r"(objective/)?kl", "held out": r"eval_(objective/)?kl"}),
        ("Explained variance of the critic", {"rollouts": r"(critic/)?explained_variance"}),
        ("Entropy", {"rollouts": r"(policy/)?entropy"}),
    ),
}
_OTHER = (
    ("Loss", {"training": r"loss", "validation": r"eval_loss"}),
    ("Reward", {"training": r"reward"}),
)
# Entries of the trainers' last log line, which sums a whole run up and is no point of a curve.
_FINAL = "train_runtime"


def run_curves(name: str, folder: str | Path) -> list[Panel]:
    """The learning curves of a run, as far as it logged them.

    Args:
        name: How the report calls the run.
        folder: Run folder with metrics.jsonl and, for the stage, run.json.

    Returns:
        Charts with at least one line of two points; none where the folder has no metrics.
    """
    file = Path(folder) / "metrics.jsonl"
    if not file.is_file():
        return []
    rows = [row for row in read_metrics(file) if _FINAL not in row]
    panels = []
    for title, lines in _PANELS.get(stage_of(name, folder), _OTHER):
        found = {label: _points(rows, pattern) for label, pattern in lines.items()}
        found = {label: points for label, points in found.items() if len(points) > 1}
        if found:
            panels.append(Panel(name, title, found))
    return panels


def stage_of(name: str, folder: str | Path) -> str:
    """Which recipe wrote a run: what run.json says, else what the run's name begins with."""
    try:
        return str(json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        return next((stage for stage in _PANELS if name.lower().startswith(stage)), "")


def _points(rows: Sequence[Mapping[str, Any]], pattern: str) -> Points:
    """Values of the first key that fits the pattern; the last one of a step counts, as after a resume."""
    keys = dict.fromkeys(key for row in rows for key in row if re.fullmatch(pattern, key))
    for key in sorted(keys, key=len):
        values = {float(row["step"]): float(row[key]) for row in rows if "step" in row and _is_number(row.get(key))}
        if values:
            return sorted(values.items())
    return []


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
