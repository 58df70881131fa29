"""From scores to results.json: summaries, paired comparisons, verdicts. The schema is described in docs/results.md."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlgen.evaluation.measures import Measure, Scores
from rlgen.evaluation.significance import Significance, across_seeds, holm, significance
from rlgen.evaluation.statistics import TIE, Paired, bootstrap_mean, compare_paired, prompt_means

SCHEMA_VERSION = 1

ROUGE_TOLERANCE = 0.02  # a larger loss against the reference hints at a gamed reward
FEW_PROMPTS = 10
DIGITS = 6

# The questions a reader comes with, most wanted first: does the second beat the first?
_QUESTIONS = (
    ("sft", "ppo"),
    ("sft", "dpo"),
    ("base", "sft"),
    ("dpo", "ppo"),
    ("prompted", "ppo"),
    ("prompted", "dpo"),
    ("prompted", "sft"),
    ("base", "prompted"),
)
_STAGE = re.compile(r"(base|prompted|sft|dpo|ppo)(?![a-z])", re.IGNORECASE)
_SEED = re.compile(r"(?P<method>.+?)[-_.]?seed[-_.]?(?P<seed>\d+)", re.IGNORECASE)  # of a checkpoint's whole name

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
        means = _means(by_checkpoint)
        for a, b in itertools.combinations(by_checkpoint, 2):
            judged = {m.name: significance(means[a][m.name], means[b][m.name]) for m in measures}
            # Diagnostics are neither good nor bad, so that nothing is claimed about them that needs a correction.
            claims = [m.name for m in measures if m.kind != "diagnostic"]
            corrected = dict(zip(claims, holm([judged[name].p_value for name in claims]), strict=True))
            for measure in measures:
                name = measure.name
                paired = compare_paired(means[a][name], means[b][name], higher_is_better=measure.higher_is_better)
                holm_p = corrected.get(name, math.nan)
                rows.append(_comparison(a, b, name, sampling, paired) | _significance(judged[name], holm_p))
    return rows


def compare_methods(scores: AllScores, measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Every pair of methods of which at least one was trained with several seeds.

    Checkpoints whose names differ only in the seed (`ppo-seed0`, `ppo-seed1`) are one method. Two methods with the
    same seeds are compared seed by seed; every seed of one is compared with the only checkpoint of another. Methods
    with several, different seeds are not compared.
    """
    rows = []
    for sampling, by_checkpoint in scores.items():
        means = _means(by_checkpoint)
        methods = seeds_of(list(by_checkpoint))
        for a, b in itertools.combinations(methods, 2):
            counts = {len(methods[a]), len(methods[b])}
            if counts == {1} or (1 not in counts and methods[a].keys() != methods[b].keys()):
                continue
            chosen = {m: [methods[m][seed] for seed in sorted(methods[m])] for m in (a, b)}
            for measure in measures:
                one, other = (np.array([means[c][measure.name] for c in chosen[m]]) for m in (a, b))
                estimate = across_seeds(other - one)
                rows.append(
                    {
                        "a": a,
                        "b": b,
                        "measure": measure.name,
                        "sampling": sampling,
                        "seeds": estimate.seeds,
                        "difference": number(estimate.difference),
                        "ci_low": number(estimate.low),
                        "ci_high": number(estimate.high),
                        "between_seeds": number(estimate.between_seeds),
                        "by_seed": [number(value) for value in estimate.by_seed],
                    }
                )
    return rows


def seeds_of(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """By method, by seed, the checkpoint; a name without a seed is a method of one checkpoint, under seed ""."""
    methods: dict[str, dict[str, str]] = {}
    for name in names:
        found = _SEED.fullmatch(name)
        method, seed = (found["method"], found["seed"]) if found else (name, "")
        methods.setdefault(method, {})[seed] = name
    return methods


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
        sentences.append(_sentence(a, b, measure, first, paired, also) + _power(results, a, b, measure, first))
        sentences += _warnings(results, a, b)
    return [*_methods(results, measure, first), *sentences]


def primary_measure(results: Mapping[str, Any]) -> str | None:
    """The measure that verdicts are about: the composite reward, else the first reward, else the first metric."""
    for kind in ("reward", "metric"):
        for measure in results["measures"]:
            if measure["kind"] == kind:
                return str(measure["name"])
    return None


def direction(results: Mapping[str, Any], measure: str) -> bool | None:
    """Whether higher is better on a measure; None where neither is."""
    better: bool | None = next(m["higher_is_better"] for m in results["measures"] if m["name"] == measure)
    return better


def main_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """The comparisons that matter, in the order of `_QUESTIONS`: PPO against SFT first.

    Checkpoints are recognised by the beginning of their names (`ppo`, `ppo-seed1`); names that say nothing are
    compared with the first checkpoint. Of methods with several seeds each seed is compared with its own.
    """
    stages = {name: found.group(1).lower() for name in names if (found := _STAGE.match(name))}
    pairs = [
        (a, b)
        for first, second in _QUESTIONS
        for a in names
        for b in names
        if stages.get(a) == first and stages.get(b) == second and not _of_other_seeds(a, b, names)
    ]
    covered = {name for pair in pairs for name in pair}
    pairs += [(names[0], name) for name in names[1:] if not {names[0], name} <= covered]
    return pairs


def _of_other_seeds(a: str, b: str, names: Sequence[str]) -> bool:
    one, other = _SEED.fullmatch(a), _SEED.fullmatch(b)
    if one is None or other is None or one["seed"] == other["seed"]:
        return False
    return a.removesuffix(one["seed"]) + other["seed"] in names or b.removesuffix(other["seed"]) + one["seed"] in names


def find_comparison(results: Mapping[str, Any], a: str, b: str, measure: str, sampling: str) -> Paired:
    """Look up b - a, whichever way round results.json has it."""
    for row in results["comparisons"]:
        if row["measure"] != measure or row["sampling"] != sampling or {row["a"], row["b"]} != {a, b}:
            continue
        numbers = [
            math.nan if row[key] is None else row[key]
            for key in ("mean_a", "mean_b", "difference", "ci_low", "ci_high", "win_rate", "tie_rate", "p_value")
        ]
        paired = Paired(row["n"], *numbers)
        return paired if row["a"] == a else paired.flipped()
    raise KeyError(f"no comparison of {a} and {b} on {measure} ({sampling})")


def main_methods(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of `methods` of the main pairs, turned in their direction, and whether a difference is `shown`."""
    rows = results["methods"]
    names = list(dict.fromkeys(name for row in rows for name in (row["a"], row["b"])))
    found = []
    for a, b in main_pairs(names) if names else ():
        for row in rows:
            if {row["a"], row["b"]} != {a, b} or row["ci_low"] is None:
                continue
            sign = 1 if row["a"] == a else -1
            low, high = sorted((sign * row["ci_low"], sign * row["ci_high"]))
            turned = {"a": a, "b": b, "difference": sign * row["difference"], "ci_low": low, "ci_high": high}
            found.append({**row, **turned, "shown": low > TIE or high < -TIE})
    return found


def number(value: float) -> float | None:
    """A number as JSON takes it: rounded, None for NaN."""
    return round(float(value), DIGITS) if math.isfinite(value) else None


def _means(by_checkpoint: Mapping[str, Mapping[str, Scores]]) -> dict[str, dict[str, np.ndarray]]:
    """Prompt means by checkpoint and measure."""
    return {
        checkpoint: {name: prompt_means(values) for name, values in by_measure.items()}
        for checkpoint, by_measure in by_checkpoint.items()
    }


def _significance(judged: Significance, holm_p: float) -> dict[str, Any]:
    return {
        "test": judged.test,
        "p_value": number(judged.p_value),
        "p_holm": number(holm_p),
        "effect_size": number(judged.effect_size),
        "detectable": number(judged.detectable),
        "prompts_needed": None if math.isnan(judged.prompts_needed) else int(judged.prompts_needed),
    }


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


def _power(results: Mapping[str, Any], a: str, b: str, measure: str, plan: str) -> str:
    """What a comparison that shows no difference could have shown."""
    row = next(
        row
        for row in results["comparisons"]
        if row["measure"] == measure and row["sampling"] == plan and {row["a"], row["b"]} == {a, b}
    )
    if find_comparison(results, a, b, measure, plan).shown or not row["detectable"]:
        return ""
    needed = (
        f"; one as small as the one seen needs about {row['prompts_needed']:,} prompts"
        if row["prompts_needed"]
        else ""
    )
    return f" With these prompts a difference of {row['detectable']:.3f} is found in 80% of cases{needed}."


def _methods(results: Mapping[str, Any], measure: str, plan: str) -> list[str]:
    """One sentence for each main pair of methods that several seeds speak for."""
    sentences = []
    for row in main_methods(results):
        if (row["measure"], row["sampling"]) != (measure, plan):
            continue
        claim = "no difference is shown" if not row["shown"] else "gains" if row["difference"] > 0 else "loses"
        sentences.append(
            f"{title(row['b'])} over {title(row['a'])} as methods, {row['seeds']} seeds, {measure} ({plan}): {claim}, "
            f"{row['difference']:+.3f} (95% interval {row['ci_low']:+.3f} to {row['ci_high']:+.3f}, deviation between "
            f"seeds {row['between_seeds']:.3f})."
        )
    return sentences


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
