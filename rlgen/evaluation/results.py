"""From scores to results.json: summaries, paired comparisons, verdicts. The schema is described in docs/results.md."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlgen.evaluation.measures import Measure, Scores
from rlgen.evaluation.statistics import Paired, bootstrap_mean, compare_paired, prompt_means

SCHEMA_VERSION = 1

ROUGE_TOLERANCE = 0.02  # a larger loss against the reference hints at a gamed reward
FEW_PROMPTS = 10
DIGITS = 6

# The questions a reader comes with, most wanted first: does the second beat the first?
_QUESTIONS = (("sft", "ppo"), ("sft", "dpo"), ("base", "sft"), ("dpo", "ppo"))
_STAGE = re.compile(r"(base|sft|dpo|ppo)(?![a-z])", re.IGNORECASE)

# scores[sampling][checkpoint][measure]
AllScores = Mapping[str, Mapping[str, Mapping[str, Scores]]]


def summarize(scores: AllScores) -> dict[str, Any]:
    """Mean and interval per checkpoint, sampling and measure."""
    return {
        checkpoint: {
            sampling: {name: _estimate(values) for name, values in by_checkpoint[checkpoint].items()}
            for sampling, by_checkpoint in scores.items()
        }
        for checkpoint in next(iter(scores.values()))
    }


def compare_all(scores: AllScores, measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Every pair of checkpoints in the given order, on every measure and sampling."""
    rows = []
    for sampling, by_checkpoint in scores.items():
        means = {
            checkpoint: {name: prompt_means(values) for name, values in by_measure.items()}
            for checkpoint, by_measure in by_checkpoint.items()
        }
        for a, b in itertools.combinations(by_checkpoint, 2):
            for measure in measures:
                paired = compare_paired(
                    means[a][measure.name], means[b][measure.name], higher_is_better=measure.higher_is_better
                )
                rows.append(_comparison(a, b, measure.name, sampling, paired))
    return rows


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """One sentence per main comparison, and one per reason for doubt.

    Args:
        results: The other parts of results.json.

    Returns:
        Sentences, the most wanted comparison first.
    """
    measure = primary_measure(results)
    if measure is None or results["n_prompts"] == 0:
        return []
    first, *others = [plan["name"] for plan in results["sampling"]]
    sentences = []
    for a, b in main_pairs([checkpoint["name"] for checkpoint in results["checkpoints"]]):
        paired = find_comparison(results, a, b, measure, first)
        if paired.n == 0:
            continue
        also = [(plan, find_comparison(results, a, b, measure, plan)) for plan in others]
        sentences.append(_sentence(a, b, measure, first, paired, also))
        sentences += _warnings(results, a, b)
    return sentences


def primary_measure(results: Mapping[str, Any]) -> str | None:
    """The measure that verdicts are about: the composite reward, else the first reward, else the first metric."""
    for kind in ("reward", "metric"):
        for measure in results["measures"]:
            if measure["kind"] == kind:
                return str(measure["name"])
    return None


def main_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """The comparisons that matter: PPO against SFT first, DPO against SFT, SFT against base, PPO against DPO.

    Checkpoints are recognised by the beginning of their names (`ppo`, `ppo-seed1`); names that say nothing are
    compared with the first checkpoint.
    """
    stages = {name: found.group(1).lower() for name in names if (found := _STAGE.match(name))}
    pairs = [
        (a, b)
        for first, second in _QUESTIONS
        for a in names
        for b in names
        if stages.get(a) == first and stages.get(b) == second
    ]
    covered = {name for pair in pairs for name in pair}
    pairs += [(names[0], name) for name in names[1:] if name not in covered]
    return pairs


def find_comparison(results: Mapping[str, Any], a: str, b: str, measure: str, sampling: str) -> Paired:
    """Look up b - a, whichever way round results.json has it."""
    for row in results["comparisons"]:
        if row["measure"] != measure or row["sampling"] != sampling or {row["a"], row["b"]} != {a, b}:
            continue
        numbers = [
            math.nan if row[key] is None else row[key]
            for key in ("mean_a", "mean_b", "difference", "ci_low", "ci_high", "win_rate", "tie_rate")
        ]
        paired = Paired(row["n"], *numbers)
        return paired if row["a"] == a else paired.flipped()
    raise KeyError(f"no comparison of {a} and {b} on {measure} ({sampling})")


def number(value: float) -> float | None:
    """A number as JSON takes it: rounded, None for NaN."""
    return round(float(value), DIGITS) if math.isfinite(value) else None


def _estimate(scores: Scores) -> dict[str, Any]:
    estimate = bootstrap_mean(prompt_means(scores))
    return {
        "n": estimate.n,
        "mean": number(estimate.mean),
        "ci_low": number(estimate.low),
        "ci_high": number(estimate.high),
    }


def _comparison(a: str, b: str, measure: str, sampling: str, paired: Paired) -> dict[str, Any]:
    return {
        "a": a,
        "b": b,
        "measure": measure,
        "sampling": sampling,
        "n": paired.n,
        "mean_a": number(paired.mean_a),
        "mean_b": number(paired.mean_b),
        "difference": number(paired.difference),
        "ci_low": number(paired.low),
        "ci_high": number(paired.high),
        "win_rate": number(paired.win_rate),
        "tie_rate": number(paired.tie_rate),
    }


def _sentence(a: str, b: str, measure: str, plan: str, paired: Paired, also: Sequence[tuple[str, Paired]]) -> str:
    if math.isnan(paired.low):
        return f"{title(b)} against {title(a)} on {measure}: one prompt is not enough for an interval."
    numbers = f"{paired.mean_b:.3f} against {paired.mean_a:.3f}, a difference of {_with_interval(paired)}"
    rates = f"better on {paired.win_rate:.0%} of them, worse on {paired.loss_rate:.0%}"
    elsewhere = "".join(f"; at {other} the difference is {_with_interval(pair)}" for other, pair in also if pair.n)
    claim = (
        f"{title(b)} {'beats' if paired.difference > 0 else 'falls behind'} {title(a)}"
        if paired.shown
        else f"No difference shown between {title(b)} and {title(a)}"
    )
    return f"{claim} on {measure}: {numbers} over {paired.n} prompts ({plan}); {rates}{elsewhere}."


def _with_interval(paired: Paired) -> str:
    return f"{paired.difference:+.3f} (95% interval {paired.low:+.3f} to {paired.high:+.3f})"


def _warnings(results: Mapping[str, Any], a: str, b: str) -> list[str]:
    """A reward that rises while ROUGE-L against the human reference falls is probably being gamed."""
    if not any(measure["name"] == "rouge_l" for measure in results["measures"]):
        return []
    warnings = []
    for sampling in results["sampling"]:
        paired = find_comparison(results, a, b, "rouge_l", sampling["name"])
        if paired.n and paired.difference < -ROUGE_TOLERANCE:
            warnings.append(
                f"Warning: ROUGE-L of {title(b)} is {-paired.difference:.3f} below that of {title(a)} "
                f"({sampling['name']}, difference {_with_interval(paired)}); read the samples for a "
                "reward that is being gamed."
            )
    return warnings


def title(name: str) -> str:
    """A checkpoint's name as prose has it."""
    return name.upper() if name.lower() in ("sft", "dpo", "ppo") else name
